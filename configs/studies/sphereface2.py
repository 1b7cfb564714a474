# SphereFace2's ablation (arXiv 2108.01513, section 3.1 and table 2): lambda, r, m, t
# one at a time, and the three kinds of margins. On VGGFace2 the recipe has lambda 0.7,
# r 40, m 0.4, t 3; on a folder of faces r 30, m 0.3.
_base_ = '../_base_/studies/losses.py'
title = 'SphereFace2: lambda, r, m, t and kinds of margins'
bases = dict(
    faces='../sphereface2_faces.py', vggface2='../sphereface2_sfnet20_vggface2.py'
)
overrides = dict(faces=_base_.small, vggface2={})
_grid = dict(
    lam=(0.3, 0.5, 0.6, 0.8, 0.9, 0.99),
    r=(1.0, 10.0, 20.0, 60.0, 80.0),
    m=(0.0, 0.1, 0.2, 0.5),
    t=(1.0, 2.0, 4.0, 5.0),
)
axes = dict(
    setting={
        'recipe': {},
        **{
            f'{name} {value:g}': {f'model.head.loss.{name}': value}
            for name, values in _grid.items()
            for value in values
        },
        # The margins of OpenSphere's configs, and half of the way to none.
        'type A m 0.5': {'model.head.loss': dict(margin_type='A', m=0.5)},
        'type A m 0.25': {'model.head.loss': dict(margin_type='A', m=0.25)},
        'type M m 1.7': {'model.head.loss': dict(margin_type='M', m=1.7)},
        'type M m 1.35': {'model.head.loss': dict(margin_type='M', m=1.35)},
    }
)
table = dict(
    rows='setting',
    figures=dict(
        faces=['lfw.accuracy', 'lfw.auc', 'lfw.d_prime'],
        vggface2=['combined.accuracy', 'combined.d_prime'],
    ),
)
# LFW, AgeDB-30, CALFW and CPLFW together.
published = {'recipe': {'combined.accuracy': 94.28}}
