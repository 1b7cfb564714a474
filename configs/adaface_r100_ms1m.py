# AdaFace (arXiv 2204.00964), IResNet-100, MS1M: a baseline, the authors' loss under
# OpenSphere's MS1M schedule. Not run here.
_base_ = '_base_/recipes/r100_ms1m.py'
model = dict(
    # Norms start at sqrt(512), near the mean of 20 that the loss starts from.
    backbone=dict(freeze_features=True, features_init=1.0),
    head=dict(loss=dict(type='AdaFaceLoss', s=64.0, m=0.4, h=0.333, t_alpha=0.01)),
)
