# SphereFace+ (arXiv 1805.09298), IResNet-100, MS1M: a baseline under OpenSphere's MS1M
# schedule, SphereFace as there with the energy's weight for VGGFace2. Not run here.
_base_ = '_base_/recipes/r100_ms1m.py'
model = dict(
    head=dict(loss=dict(type='SphereFacePlusLoss', s=64.0, m=1.7, lam_mhe=0.1))
)
