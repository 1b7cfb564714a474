# insightface's arcface_torch on MS1MV3: batch 1024, fp16, 20 epochs of
# 5,179,510 // 1024 = 5,058 iterations, in which the rate falls linearly to 0. Only the
# network's gradient norm is clipped. A last step beyond the end makes the rate of
# iteration i (1 - i / 101,160) times the first, as there.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='float16',
    loss_scale=dict(growth_interval=100),
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4),
    clip_grad=dict(max_norm=5.0),
    clip_centres=False,
)
param_scheduler = [
    dict(type='PolyLR', power=1.0, by_epoch=False, begin=0, end=101_161, eta_min=0.0)
]
train_cfg = dict(by_epoch=False, max_iters=101_160, val_interval=2_000)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=1024)
