# SphereFace-R (arXiv 2109.05565): versions, feature normalisations and margins. Where
# the features are not normalised, or softly, the margin grows from 1 to m.
_base_ = '../_base_/studies/losses.py'
title = 'SphereFace-R: version, feature normalisation and margin'
bases = dict(
    faces='../spherefacer_faces.py', vggface2='../spherefacer_sfnet20_vggface2.py'
)
overrides = dict(
    faces={**_base_.small, 'model.head.loss.s': 30.0},
    vggface2={'model.head.loss.s': 30.0},
)


def _norm(feature_norm, loss_weight, end):
    annealed = dict(type='MarginSchedulerHook', policy='linear', start=1.0, end=end)
    return {
        'model.head.loss.feature_norm': feature_norm,
        'model.head.loss.loss_weight': loss_weight,
        'custom_hooks': [] if feature_norm == 'hard' else [annealed],
    }


axes = dict(
    version={v: {'model.head.loss.version': v} for v in ('v0', 'v1', 'v2')},
    norm={
        'none': dict(
            faces=_norm('none', 1.0, 1000), vggface2=_norm('none', 1.0, 30_000)
        ),
        'hard': dict(faces=_norm('hard', 1.0, 0), vggface2=_norm('hard', 50 / 30, 0)),
        'soft': dict(
            faces=_norm('soft', 1.0, 1000), vggface2=_norm('soft', 50 / 30, 30_000)
        ),
    },
    m={str(m): {'model.head.loss.m': m} for m in (1.2, 1.4, 1.7, 2.5, 4.0)},
)
table = dict(
    rows=['version', 'norm'],
    columns='m',
    figures=dict(faces=['lfw.accuracy', 'lfw.auc'], vggface2=['combined.accuracy']),
)
plot = dict(x='m', label='margin m')
