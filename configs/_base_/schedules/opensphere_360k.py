# OpenSphere's schedule for IResNet-100 on MS1M at revision 032c31b.
_base_ = 'opensphere_70k.py'
param_scheduler = dict(milestones=[150_000, 270_000, 320_000], end=360_000)
train_cfg = dict(max_iters=360_000, val_interval=5_000)
