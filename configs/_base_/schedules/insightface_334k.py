# insightface's arcface_torch on Glint360K: 20 epochs of 17,091,657 // 1024 = 16,691
# iterations, a smaller weight decay.
_base_ = 'insightface_101k.py'
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
param_scheduler = [
    dict(type='PolyLR', power=1.0, by_epoch=False, begin=0, end=333_821, eta_min=0.0)
]
train_cfg = dict(max_iters=333_820)
