# CurricularFace (arXiv 2004.00288), IResNet-100, MS1M: a baseline, the authors' loss
# under OpenSphere's MS1M schedule. Not run here.
_base_ = '_base_/recipes/r100_ms1m.py'
model = dict(
    head=dict(loss=dict(type='CurricularFaceLoss', s=64.0, m=0.5, momentum=0.01))
)
