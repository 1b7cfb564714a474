# SFace (arXiv 2205.12010), IR-50, CASIA-WebFace: the authors' SFace_torch/train.sh,
# 2 GPUs x 128. That code also draws the network's weights from N(0, 8 / fan out) and
# starts PReLU's slopes at 1, and scales pixels by 0.078125, ten times as much as its
# MXNet code. Not run here.
_base_ = [
    '_base_/models/ir50.py',
    '_base_/datasets/casia_webface.py',
    '_base_/schedules/sface_240k.py',
    '_base_/default_runtime.py',
]
model = dict(
    head=dict(
        num_classes=_base_.num_classes,
        # 2 sqrt(2 / fan out), as that code draws the centres.
        init_std=(8 / _base_.num_classes) ** 0.5,
        loss=dict(type='SFaceLoss', s=64.0, k=80.0, a=0.87, b=1.2),
    )
)
train_dataloader = dict(batch_size=128)
