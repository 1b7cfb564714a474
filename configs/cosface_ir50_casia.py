# CosFace (arXiv 1801.09414), IR-50, CASIA-WebFace: SFace's SFace_torch/train.sh with
# --head CosFace, whose margin is 0.35 there. Not run here.
_base_ = 'arcface_ir50_casia.py'
model = dict(head=dict(loss=dict(_delete_=True, type='CosFaceLoss', s=64.0, m=0.35)))
