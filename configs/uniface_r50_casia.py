# UniFace, balanced by lambda (Zhou et al., ICCV 2023), IResNet-50, CASIA-WebFace: the
# supplement, section C, and the authors' train.py. Not run here.
_base_ = '_base_/recipes/r50_casia.py'
model = dict(head=dict(loss=dict(type='UniFaceLoss', s=64.0, m=0.45, lam=0.6)))
