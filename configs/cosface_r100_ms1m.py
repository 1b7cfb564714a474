# CosFace (arXiv 1801.09414), IResNet-100, MS1M: OpenSphere HEAD,
# config/train/ms1m_iresnet100_cosface.yml. Not run here.
_base_ = '_base_/recipes/r100_ms1m.py'
model = dict(head=dict(loss=dict(type='CosFaceLoss', s=64.0, m=0.4)))
