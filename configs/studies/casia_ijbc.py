# The cheapest real training that shows what one-vs-all is for: IResNet-50 on
# CASIA-WebFace, tested on IJB-C (UniTSFace, NeurIPS 2023, tables 4 and 5).
_base_ = '../_base_/studies/losses.py'
title = 'IResNet-50 on CASIA-WebFace, tested on IJB-C'
bases = dict(faces='../sphereface2_faces.py', casia='../sphereface2_r50_casia.py')


def _row(names, *values):
    return dict(zip(names, values, strict=True))


axes = dict(
    loss={
        name: dict(
            faces=_base_.for_few[name], casia=dict(config=f'../{recipe}_r50_casia.py')
        )
        for name, recipe in (
            ('SphereFace-R v1', 'spherefacer'),
            ('SphereFace2-C', 'sphereface2'),
            ('ArcFace', 'arcface'),
        )
    }
)
_names = ('ijbc.tar@far=1e-04', 'ijbc.tar@far=1e-05')
_names += ('lfw.accuracy', 'cfp_fp.accuracy', 'agedb_30.accuracy')
table = dict(
    rows='loss', figures=dict(faces=['lfw.accuracy', 'lfw.auc'], casia=list(_names))
)
test_sets = dict(faces=[], casia=['ijbc'])
published = {
    'SphereFace-R v1': _row(_names, 86.35, 75.81, 99.38, 96.95, 94.48),
    'SphereFace2-C': _row(_names, 88.41, 79.18, 99.46, 97.42, 94.96),
    'ArcFace': _row(_names, 48.49, 9.18, 99.31, 97.07, 94.51),
}
