# ArcFace (arXiv 1801.07698), IResNet-50, CASIA-WebFace, in UniTSFace's setting (NeurIPS
# 2023, tables 4 and 5; its train.py), which does not tell its s and m: here its
# paper's. Not run here.
_base_ = '_base_/recipes/r50_casia.py'
model = dict(head=dict(loss=dict(type='ArcFaceLoss', s=64.0, m=0.5)))
