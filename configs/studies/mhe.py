# Minimum hyperspherical energy (NeurIPS 2018, arXiv 1805.09298) beside any loss; with
# SphereFace it is SphereFace+, published with the weight 0.1.
_base_ = '../_base_/studies/losses.py'
title = 'Minimum hyperspherical energy beside other losses'
bases = dict(
    faces='../sphereface2_faces.py', vggface2='../sphereface2_sfnet20_vggface2.py'
)
overrides = dict(faces=_base_.small, vggface2={})
axes = dict(
    loss={
        name: dict(faces=_base_.for_few[name], vggface2=_base_.in_papers[name])
        for name in (
            'SphereFace',
            'SphereFace-R v2',
            'SphereFace2-C',
            'ArcFace',
            'SFace',
        )
    },
    weight={str(lam): {'model.head.lam_mhe': lam} for lam in (0.0, 0.01, 0.1, 1.0)},
)
table = dict(
    rows='loss',
    columns='weight',
    figures=dict(faces=['lfw.accuracy', 'lfw.auc'], vggface2=['combined.accuracy']),
)
plot = dict(x='weight', label='weight of the energy')
