# SphereFace (arXiv 1704.08063), IResNet-100, MS1M: OpenSphere HEAD,
# config/train/ms1m_iresnet100_sphereface.yml. Not run here.
_base_ = '_base_/recipes/r100_ms1m.py'
model = dict(head=dict(loss=dict(type='SphereFaceLoss', s=64.0, m=1.7)))
