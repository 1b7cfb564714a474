# SFNet-20 and -64 on VGGFace2, tested on IJB-B and IJB-C: SimPLE (ICLR 2023, by the
# authors of OpenSphere), tables 3 to 6, with their released code.
_base_ = '../_base_/studies/losses.py'
title = 'SFNet-20 and -64 on VGGFace2, tested on IJB-B and IJB-C'
bases = dict(
    faces='../sphereface2_faces.py', vggface2='../sphereface2_sfnet20_vggface2.py'
)


def _row(names, *values):
    return {'SFNet-20': dict(zip(names, values, strict=True))}


axes = dict(
    loss={
        name: dict(faces=_base_.for_few[name], vggface2=_base_.in_papers[name])
        for name in ('SphereFace', 'CosFace', 'ArcFace', 'SphereFace2-C')
    },
    network={f'SFNet-{depth}': {'model.backbone.depth': depth} for depth in (20, 64)},
)
_names = [
    f'{name}.tar@far={far}' for name in ('ijbb', 'ijbc') for far in ('1e-05', '1e-04')
]
_names += ['ijbc.rank-1', 'ijbc.tpir@fpir=1e-02']
table = dict(
    rows='loss',
    columns='network',
    figures=dict(faces=['lfw.accuracy', 'lfw.auc'], vggface2=_names),
)
test_sets = dict(faces=[], vggface2=['ijbb', 'ijbc'])
published = {
    'SphereFace': _row(_names, 75.44, 87.43, 83.02, 90.37, 94.19, 78.18),
    'CosFace': _row(_names, 73.66, 85.51, 80.21, 88.75, 93.09, 75.36),
    'ArcFace': _row(_names, 76.52, 87.50, 82.49, 90.17, 93.79, 78.22),
    'SphereFace2-C': _row(_names, 77.13, 87.95, 83.38, 90.82, 93.24, 80.03),
}
