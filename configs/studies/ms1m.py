# MS1MV2, tested on IJB-B and IJB-C: IResNet-100, and SFNet-64 with batch norm, with the
# losses that OpenSphere lists. SimPLE (ICLR 2023, by the authors of OpenSphere), tables
# 3 to 6. The small sets: SphereFace2's of SimPLE, SphereFace's of another group (m
# 1.7).
_base_ = '../_base_/studies/losses.py'
title = 'MS1M, tested on IJB-B and IJB-C'
bases = dict(faces='../sphereface2_faces.py', ms1m='../sphereface2_r100_ms1m.py')
_recipes = {
    'SphereFace': 'sphereface',
    'SphereFace+': 'sphereface_plus',
    'SphereFace-R v2': 'spherefacer',
    'SphereFace2-C': 'sphereface2',
}
_r100 = {**_recipes, 'ArcFace': 'arcface', 'CosFace': 'cosface', 'AdaFace': 'adaface'}


def _row(names, *values):
    return dict(zip(names, values, strict=True))


axes = dict(
    training={
        f'{network} {name}': dict(
            faces={**_base_.for_few[name], 'model.backbone.depth': depth},
            ms1m=dict(config=f'../{recipe}_{short}_ms1m.py'),
        )
        for network, short, recipes, depth in (
            # SFNet-20 and -10 on a folder of faces.
            ('IResNet-100', 'r100', _r100, 20),
            ('SFNet-64', 'sfnet64', _recipes, 10),
        )
        for name, recipe in recipes.items()
    }
)
_names = [
    f'{name}.tar@far={far}' for name in ('ijbb', 'ijbc') for far in ('1e-05', '1e-04')
]
_names += ['ijbc.rank-1', 'ijbc.tpir@fpir=1e-02']
_pairs = [
    f'{name}.accuracy' for name in ('lfw', 'agedb_30', 'calfw', 'cplfw', 'cfp_fp')
]
table = dict(
    rows='training',
    figures=dict(faces=['lfw.accuracy', 'lfw.auc'], ms1m=_names + _pairs),
)
test_sets = dict(faces=[], ms1m=['calfw', 'cplfw', 'ijbb', 'ijbc'])
published = {
    'IResNet-100 SphereFace': {
        **_row(_names, 90.14, 94.87, 94.36, 96.25, 96.45, 91.68),
        **_row(_pairs, 99.83, 98.20, 96.07, 92.88, 98.40),
    },
    'IResNet-100 ArcFace': _row(_names, 90.40, 95.02, 94.49, 96.39, 96.47, 91.91),
    'IResNet-100 SphereFace2-C': {
        **_row(_names, 89.92, 95.02, 94.49, 96.42, 96.41, 92.08),
        **_row(_pairs, 99.80, 98.07, 95.38, 92.20, 98.15),
    },
    'IResNet-100 AdaFace': _row(_names, 90.04, 95.67, 94.87, 96.89, 96.75, 92.12),
    'SFNet-64 SphereFace': _row(_names, 86.66, 94.36, 92.79, 95.82, 96.07, 87.74),
    'SFNet-64 SphereFace2-C': _row(_names, 85.89, 94.04, 92.37, 95.74, 95.81, 88.87),
}
