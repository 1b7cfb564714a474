# SFace, ResNet-100, MS1MV2 (arXiv 2205.12010): batch 512 as 4 x 128. Not run here.
_base_ = [
    '_base_/models/iresnet100.py',
    '_base_/datasets/ms1m.py',
    '_base_/schedules/sface_341k.py',
    '_base_/default_runtime.py',
]
model = dict(
    head=dict(
        # 2 sqrt(2 / fan_out), as SFace's code draws its centres.
        init_std=2 * (2 / 85_742) ** 0.5,
        loss=dict(type='SFaceLoss', s=64.0, k=80.0, a=0.90, b=1.20),
    ),
)
train_dataloader = dict(batch_size=128)
