# What SFace (arXiv 2205.12010, section IV) says of wrong labels: it leaves them far
# from their centres. The angles, in degrees, at the end of the training.
_base_ = '../_base_/studies/losses.py'
title = 'Angles of clean and of wrong labels'
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
        for name in ('SFace', 'SphereFace2-C', 'ArcFace', 'NormFace')
    },
    noise={
        f'{share} %': dict(faces=_noise(share, '_seed_'), vggface2=_noise(share, 10086))
        for share in (20, 40, 60)
    },
)
table = dict(
    rows='loss',
    columns='noise',
    figures=['last.angles/own_clean_mean', 'last.angles/own_wrong_mean'],
)
