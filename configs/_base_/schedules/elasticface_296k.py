# ElasticFace on MS1MV2: batch 512, fp32, 26 epochs of 5,822,653 // 512 = 11,372
# iterations, a tenth of the rate from the epochs numbered 8, 14, 20 and 25 on. Only the
# network's gradient norm is clipped.
_base_ = 'sface_341k.py'
optim_wrapper = dict(clip_grad=dict(max_norm=5.0), clip_centres=False)
param_scheduler = dict(milestones=[79_604, 147_836, 216_068, 272_928], end=295_672)
train_cfg = dict(max_iters=295_672)
