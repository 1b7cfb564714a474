# OpenSphere's newer MS1M recipe: batch 512, fp16, network and classifier together
# clipped at 100.
_base_ = 'opensphere_70k.py'
optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='float16', clip_grad=dict(max_norm=100.0)
)
param_scheduler = dict(milestones=[80_000, 140_000, 200_000], end=240_000)
train_cfg = dict(max_iters=240_000, val_interval=5_000)
