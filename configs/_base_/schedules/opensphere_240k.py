# OpenSphere's newer MS1M recipe: batch 512 on 8 GPUs, fp16, clipped at 100.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='float16',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4),
    clip_grad=dict(max_norm=100.0),
)
param_scheduler = dict(
    type='MultiStepLR',
    by_epoch=False,
    milestones=[80_000, 140_000, 200_000],
    gamma=0.1,
    end=240_000,
)
train_cfg = dict(by_epoch=False, max_iters=240_000, val_interval=5_000)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=512)
