# OpenSphere's schedule for VGGFace2 at revision 032c31b: batch 512. The gradient norms
# of network and classifier are clipped at 1e5 there, which they never reach: no
# clipping here.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4),
)
param_scheduler = dict(
    type='MultiStepLR',
    by_epoch=False,
    milestones=[40_000, 60_000],
    gamma=0.1,
    end=70_000,
)
train_cfg = dict(by_epoch=False, max_iters=70_000, val_interval=2_000)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=512)
