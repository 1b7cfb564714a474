# insightface's arcface_torch on WebFace42M with batch 4096: 20 epochs of
# 42,474,557 // 4096 = 10,369 iterations, of which the first two warm up from 0. (There
# the very first step is taken at the full rate, since the scheduler begins after it.)
_base_ = 'insightface_101k.py'
optim_wrapper = dict(optimizer=dict(lr=0.4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=20_739),
    dict(
        type='PolyLR', power=1.0, by_epoch=False, begin=20_738, end=207_381, eta_min=0.0
    ),
]
train_cfg = dict(max_iters=207_380, val_interval=10_000)
auto_scale_lr = dict(base_batch_size=4096)
