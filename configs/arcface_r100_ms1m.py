# ArcFace (arXiv 1801.07698), IResNet-100, MS1M: OpenSphere HEAD,
# config/train/ms1m_iresnet100_arcface.yml. Not run here.
_base_ = '_base_/recipes/r100_ms1m.py'
model = dict(head=dict(loss=dict(type='ArcFaceLoss', s=64.0, m=0.5, beyond='clip')))
