# ArcFace (arXiv 1801.07698), IResNet-100, MS1MV3: insightface,
# recognition/arcface_torch/configs/ms1mv3_r100.py, 8 GPUs x 128. Not run here.
_base_ = 'arcface_r50_ms1mv3.py'
model = dict(backbone=dict(depth=100))
