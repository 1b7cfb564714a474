# NormFace (arXiv 1704.06369), IResNet-100, MS1M: a baseline under OpenSphere's MS1M
# schedule, with the scale of the others there. Not run here.
_base_ = '_base_/recipes/r100_ms1m.py'
model = dict(head=dict(loss=dict(type='NormFaceLoss', s=64.0)))
