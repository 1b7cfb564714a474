# UniFace on CASIA-WebFace: batch 512, fp16, 28 epochs of 490,623 // 512 = 958
# iterations; a tenth of the rate after epochs 16 and 24. Network and classifier are
# clipped together at 10.
_base_ = 'sface_341k.py'
optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='float16', clip_grad=dict(max_norm=10.0)
)
param_scheduler = dict(milestones=[15_328, 22_992], end=26_824)
train_cfg = dict(max_iters=26_824, val_interval=2_000)
