# SFace's PyTorch code on CASIA-WebFace: batch 256; a tenth of the rate after epochs
# 50, 70 and 80 of 125, of 490,623 // 256 = 1,916 iterations each. Weights and biases
# of batch norms do not decay, PReLU's slopes and other biases do.
_base_ = 'sface_341k.py'
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
param_scheduler = dict(milestones=[95_800, 134_120, 153_280], end=239_500)
train_cfg = dict(max_iters=239_500, val_interval=2_000)
auto_scale_lr = dict(base_batch_size=256)
