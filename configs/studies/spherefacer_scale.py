# SphereFace-R v2 with hard feature normalisation (arXiv 2109.05565): scale and margin.
_base_ = '../_base_/studies/losses.py'
title = 'SphereFace-R v2: scale and margin'
bases = dict(
    faces='../spherefacer_faces.py', vggface2='../spherefacer_sfnet20_vggface2.py'
)
overrides = dict(faces=_base_.small, vggface2={})
axes = dict(
    s={
        str(s): dict(
            faces={'model.head.loss.s': float(s)},
            # OpenSphere's lw of 50 is of L / s.
            vggface2={'model.head.loss': dict(s=float(s), loss_weight=50 / s)},
        )
        for s in (8, 16, 30, 60)
    },
    m={str(m): {'model.head.loss.m': m} for m in (1.0, 1.2, 1.4, 1.7)},
)
table = dict(
    rows='s',
    columns='m',
    figures=dict(faces=['lfw.accuracy', 'lfw.auc'], vggface2=['combined.accuracy']),
)
plot = dict(x='m', label='margin m')
