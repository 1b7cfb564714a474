# IResNet-50 on CASIA-WebFace as in UniFace's and UniTSFace's train.py: batch 512, here
# as 4 GPUs x 128. (1 GPU x 512 in four parts there, 2 x 2 convolutions where ours
# strides.)
_base_ = [
    '../models/iresnet50.py',
    '../datasets/casia_webface.py',
    '../schedules/uniface_27k.py',
    '../default_runtime.py',
]
model = dict(
    backbone=dict(dropout=0.4),
    head=dict(
        num_classes=_base_.num_classes,
        # Kaiming normal with slope 1: sqrt(1 / fan in).
        init_std=(1 / 512) ** 0.5,
    ),
)
train_dataloader = dict(batch_size=128)
