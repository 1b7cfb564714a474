# SFace (arXiv 2205.12010), ResNet-100, MS1MV2: the authors' SFace_mxnet/README.md,
# 4 GPUs x 128. That code also draws the convolutions from Xavier normal (fan out),
# where ours has N(0, 0.1), uses 2e-5 in its batch norms, and as it stands takes the
# first two GPUs only. Not run here.
_base_ = [
    '_base_/models/iresnet100.py',
    '_base_/datasets/ms1m.py',
    '_base_/schedules/sface_341k.py',
    '_base_/default_runtime.py',
]
model = dict(
    backbone=dict(dropout=0.4),
    head=dict(
        num_classes=_base_.num_classes,
        # sqrt(2 / fan out), as that code draws the centres.
        init_std=(2 / _base_.num_classes) ** 0.5,
        loss=dict(type='SFaceLoss', s=64.0, k=80.0, a=0.90, b=1.20),
    ),
)
train_dataloader = dict(batch_size=128)
