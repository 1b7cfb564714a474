# The losses of the studies, as overrides of a config: as published, and for few people.


def _loss(type, **options):
    return {'model.head.loss': dict(_delete_=True, type=type, **options)}


def _sphereface2(margin_type, r, m):
    return _loss(
        'SphereFace2Loss',
        **dict(margin_type=margin_type, lam=0.7, r=r, m=m, t=3.0, loss_weight=10.0),
    )


def _spherefacer(version, s, m, lw):
    return _loss(
        'SphereFaceRLoss',
        **dict(version=version, feature_norm='hard', s=s, m=m, loss_weight=lw / s),
    )


# Of VGGFace2 and SFNet-20 where that is published (the recipes *_sfnet20_vggface2.py),
# else of the authors' larger training.
in_papers = {
    'NormFace': _loss('NormFaceLoss', s=30.0),
    'CosFace': _loss('CosFaceLoss', s=30.0, m=0.35),
    'ArcFace': _loss('ArcFaceLoss', s=30.0, m=0.5, beyond='clip'),
    'CurricularFace': _loss('CurricularFaceLoss', s=64.0, m=0.5),
    'MagFace': _loss('MagFaceLoss', s=64.0, l_m=0.45, u_m=0.8),
    'AdaFace': _loss('AdaFaceLoss', s=64.0, m=0.4),
    'ElasticFace': _loss('ElasticFaceLoss', s=64.0, m=0.5, sigma=0.05),
    'UniFace': _loss('UniFaceLoss', s=64.0, m=0.45, lam=0.6),
    'SphereFace': _loss('SphereFaceLoss', s=30.0, m=1.5),
    'SphereFace+': _loss('SphereFacePlusLoss', s=30.0, m=1.5, lam_mhe=0.1),
    'SphereFace-R v1': _spherefacer('v1', 30.0, 1.5, 50.0),
    'SphereFace-R v2': _spherefacer('v2', 60.0, 1.4, 50.0),
    'SphereFace2-C': _sphereface2('C', 40.0, 0.4),
    'SphereFace2-A': _sphereface2('A', 40.0, 0.5),
    'SphereFace2-M': _sphereface2('M', 40.0, 1.7),
    'SFace': _loss('SFaceLoss', s=64.0, k=80.0, a=0.88, b=1.25),
}
# Scale 16 and half of the margin: the published ones are for thousands of people.
for_few = {
    'NormFace': _loss('NormFaceLoss', s=16.0),
    'CosFace': _loss('CosFaceLoss', s=16.0, m=0.175),
    'ArcFace': _loss('ArcFaceLoss', s=16.0, m=0.25, beyond='clip'),
    'CurricularFace': _loss('CurricularFaceLoss', s=16.0, m=0.25),
    'MagFace': _loss('MagFaceLoss', s=16.0, l_m=0.225, u_m=0.4),
    'AdaFace': _loss('AdaFaceLoss', s=16.0, m=0.2),
    'ElasticFace': _loss('ElasticFaceLoss', s=16.0, m=0.25, sigma=0.025),
    'UniFace': _loss('UniFaceLoss', s=16.0, m=0.225, lam=0.6),
    'SphereFace': _loss('SphereFaceLoss', s=16.0, m=1.25),
    'SphereFace+': _loss('SphereFacePlusLoss', s=16.0, m=1.25, lam_mhe=0.1),
    'SphereFace-R v1': _spherefacer('v1', 16.0, 1.25, 16.0),
    'SphereFace-R v2': _spherefacer('v2', 16.0, 1.2, 16.0),
    'SphereFace2-C': _sphereface2('C', 16.0, 0.2),
    'SphereFace2-A': _sphereface2('A', 16.0, 0.25),
    'SphereFace2-M': _sphereface2('M', 16.0, 1.35),
    'SFace': _loss('SFaceLoss', s=16.0, k=20.0, a=0.87, b=1.2),
}
# The recipe for a folder of faces at a size of some five minutes on one CPU core, for
# grids of many runs.
small = {'image_size': 48, 'epochs': 10, 'model.backbone.depth': 10}
