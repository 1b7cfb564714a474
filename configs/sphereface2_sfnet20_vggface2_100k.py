# SphereFace2-C, SFNet-20, VGGFace2, a longer schedule (arXiv 2108.01513): OpenSphere
# 032c31b, config/train/vggface2_sfnet20_sphereface2.yml. Not run here.
_base_ = 'sphereface2_sfnet20_vggface2.py'
param_scheduler = dict(milestones=[50_000, 78_000, 94_000], end=100_000)
train_cfg = dict(max_iters=100_000)
