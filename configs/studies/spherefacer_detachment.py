# Characteristic gradient detachment (SphereFace-R, arXiv 2109.05565, section 3): v0
# without it is SphereFace of 2017. Gradients are not clipped, only their norm is
# logged.
_base_ = '../_base_/studies/losses.py'
title = 'SphereFace-R with and without detachment, for growing margins'
bases = dict(
    faces='../spherefacer_faces.py', vggface2='../spherefacer_sfnet20_vggface2.py'
)
_common = {
    'model.head.loss.s': 30.0,
    'optim_wrapper.clip_grad': dict(max_norm=1e9),
}
overrides = dict(
    faces={**_base_.small, **_common, 'model.head.loss.loss_weight': 1.0},
    vggface2={**_common, 'model.head.loss.loss_weight': 50 / 30},
)
axes = dict(
    version={v: {'model.head.loss.version': v} for v in ('v0', 'v1', 'v2')},
    detachment={
        'detached': {'model.head.loss.detach': True},
        'not detached': {'model.head.loss.detach': False},
    },
    m={str(m): {'model.head.loss.m': m} for m in (1.4, 2.5, 4.0)},
)
table = dict(
    rows=['version', 'detachment'],
    columns='m',
    figures=dict(
        faces=['lfw.accuracy', 'max.grad_norm'],
        vggface2=['combined.accuracy', 'max.grad_norm'],
    ),
)
