# SFace's MXNet code on VGGFace2: as on MS1MV2, 30 epochs of 3,141,890 // 512 = 6,136
# iterations. (The images are those of the paper; of an aligned copy with a few images
# less, 30 epochs end a little earlier.)
_base_ = 'sface_341k.py'
param_scheduler = dict(end=184_080)
train_cfg = dict(max_iters=184_080, val_interval=2_000)
