# OpenSphere's schedule for SFNet-64 on MS1M at revision 032c31b.
_base_ = 'opensphere_70k.py'
param_scheduler = dict(milestones=[100_000, 180_000, 220_000], end=240_000)
train_cfg = dict(max_iters=240_000, val_interval=5_000)
