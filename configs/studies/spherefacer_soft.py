# SphereFace-R with soft feature normalisation (arXiv 2109.05565): the weight t of
# |norm - s| (OpenSphere: 0.01 for s 30) and s.
_base_ = '../_base_/studies/losses.py'
title = 'SphereFace-R v2 with soft feature normalisation: t and s'
bases = dict(
    faces='../spherefacer_faces.py',
    vggface2='../spherefacer_v2_soft_sfnet20_vggface2.py',
)
overrides = dict(
    faces={
        **_base_.small,
        'model.head.loss.feature_norm': 'soft',
        'custom_hooks': [
            dict(type='MarginSchedulerHook', policy='linear', start=1.0, end=1000)
        ],
    },
    vggface2={},
)
axes = dict(
    t={str(t): {'model.head.loss.t': t} for t in (0.001, 0.01, 0.1)},
    s={str(s): {'model.head.loss.s': float(s)} for s in (8, 16, 30, 60)},
)
table = dict(
    rows='t',
    columns='s',
    figures=dict(faces=['lfw.accuracy', 'lfw.auc'], vggface2=['combined.accuracy']),
)
