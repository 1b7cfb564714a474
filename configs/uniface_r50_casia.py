# UniFace, balanced by lambda (Zhou et al., ICCV 2023), IResNet-50, CASIA-WebFace: the
# supplement, section C, and the authors' train.py, 1 GPU x 512 in four parts. Their
# ResNet-50 has 2 x 2 convolutions where ours strides, and dropout 0.4. Not run here.
_base_ = [
    '_base_/models/iresnet50.py',
    '_base_/datasets/casia_webface.py',
    '_base_/schedules/uniface_27k.py',
    '_base_/default_runtime.py',
]
model = dict(
    backbone=dict(dropout=0.4),
    head=dict(
        num_classes=_base_.num_classes,
        # Kaiming normal with slope 1: sqrt(1 / fan in).
        init_std=(1 / 512) ** 0.5,
        loss=dict(type='UniFaceLoss', s=64.0, m=0.45, lam=0.6),
    ),
)
train_dataloader = dict(batch_size=128)
