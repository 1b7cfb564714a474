# Minutes on two CPU cores.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, end=800, eta_min=0.0),
]
train_cfg = dict(by_epoch=False, max_iters=800, val_interval=800)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64)
