# Which loss bears wrong labels, at one scale, 8, and half of the published margins,
# which are for thousands of people? Some forty minutes on two CPU cores.
_base_ = '../_base_/studies/drawn.py'
title = 'Wrong labels among drawn faces, all losses at scale 8'


def _loss(type, **options):
    return {'model.head.loss': dict(type=type, **options)}


axes = dict(
    loss={
        'NormFace': _loss('NormFaceLoss', s=8.0),
        'CosFace': _loss('CosFaceLoss', s=8.0, m=0.175),
        'ArcFace': _loss('ArcFaceLoss', s=8.0, m=0.25),
        'CurricularFace': _loss('CurricularFaceLoss', s=8.0, m=0.25),
        'MagFace': _loss('MagFaceLoss', s=8.0, l_m=0.225, u_m=0.4),
        'AdaFace': _loss('AdaFaceLoss', s=8.0, m=0.2),
        'SphereFace': _loss('SphereFaceLoss', s=8.0, m=1.25),
        'SphereFace+': _loss('SphereFacePlusLoss', s=8.0, m=1.25),
        'SphereFace-R v2': _loss(
            'SphereFaceRLoss', version='v2', s=8.0, m=1.2, loss_weight=50 / 60
        ),
        'SphereFace2-C': _loss(
            'SphereFace2Loss',
            **dict(margin_type='C', lam=0.7, r=8.0, m=0.2, t=3.0, loss_weight=10.0),
        ),
        'SphereFace2-A': _loss(
            'SphereFace2Loss',
            **dict(margin_type='A', lam=0.7, r=8.0, m=0.25, t=3.0, loss_weight=10.0),
        ),
        'SphereFace2-M': _loss(
            'SphereFace2Loss',
            **dict(margin_type='M', lam=0.7, r=8.0, m=1.35, t=3.0, loss_weight=10.0),
        ),
        'SFace': _loss('SFaceLoss', s=8.0, k=20.0, a=0.87, b=1.2),
    },
    noise={
        f'{share} %': {
            'train_dataloader.dataset': dict(
                type='LabelNoise',
                share=share / 100,
                seed='_seed_',
                dataset='_base_',
            )
        }
        for share in (0, 20, 40, 60)
    },
)
table = dict(
    rows='loss',
    columns='noise',
    figures=['synthetic.accuracy', 'synthetic.tar@far=1e-02'],
)
plot = dict(x='noise', label='share of wrong labels')
