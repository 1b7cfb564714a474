# SFace on MS1MV2: batch 512 as 4 x 128, 30 epochs of 5,822,653 images.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4),
)
param_scheduler = dict(
    type='MultiStepLR',
    by_epoch=False,
    milestones=[100_000, 160_000, 220_000],
    gamma=0.1,
    end=341_160,
)
train_cfg = dict(by_epoch=False, max_iters=341_160, val_interval=5_000)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=512)
