# Wrong labels: SphereFace2 (arXiv 2108.01513, section 3.3: 60 %, seed 10086) and SFace
# (arXiv 2205.12010) claim to bear them. Scaled losses on few people, published ones on
# VGGFace2.
_base_ = '../_base_/studies/losses.py'
title = 'Losses under wrong labels'
bases = dict(
    faces='../sphereface2_faces.py', vggface2='../sphereface2_sfnet20_vggface2.py'
)
overrides = dict(faces=_base_.small, vggface2={})


def _noise(share, seed):
    dataset = dict(type='LabelNoise', share=share / 100, seed=seed, dataset='_base_')
    return {'train_dataloader.dataset': dict(_delete_=True, **dataset)}


axes = dict(
    loss={
        name: dict(faces=_base_.for_few[name], vggface2=_base_.in_papers[name])
        for name in (
            *('SphereFace2-C', 'SFace', 'SphereFace-R v2', 'ArcFace', 'NormFace'),
        )
    },
    noise={
        f'{share} %': dict(faces=_noise(share, '_seed_'), vggface2=_noise(share, 10086))
        for share in (0, 20, 40, 60, 80)
    },
)
table = dict(
    rows='loss',
    columns='noise',
    figures=dict(faces=['lfw.accuracy', 'lfw.auc'], vggface2=['combined.accuracy']),
)
plot = dict(x='noise', label='share of wrong labels')
