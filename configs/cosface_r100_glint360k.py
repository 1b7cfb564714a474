# CosFace (arXiv 1801.09414), IResNet-100, Glint360K: insightface,
# recognition/arcface_torch/configs/glint360k_r100.py, 8 GPUs x 128. Not run here.
_base_ = 'cosface_r50_glint360k.py'
model = dict(backbone=dict(depth=100))
