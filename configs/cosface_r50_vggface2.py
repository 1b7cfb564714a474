# CosFace (arXiv 1801.09414) with its paper's s and m, ResNet-50, VGGFace2, in the
# setting of sface_r50_vggface2.py: a baseline. Not run here.
_base_ = 'sface_r50_vggface2.py'
model = dict(head=dict(loss=dict(_delete_=True, type='CosFaceLoss', s=64.0, m=0.35)))
