# SFace (arXiv 2205.12010), ResNet-50, VGGFace2: the authors' SFace_mxnet/README.md,
# 4 GPUs x 128; see sface_r100_ms1m.py for what else differs there. Not run here.
_base_ = [
    '_base_/models/iresnet50.py',
    '_base_/datasets/vggface2.py',
    '_base_/schedules/sface_184k.py',
    '_base_/default_runtime.py',
]
model = dict(
    backbone=dict(dropout=0.4),
    head=dict(
        num_classes=_base_.num_classes,
        # sqrt(2 / fan out), as that code draws the centres.
        init_std=(2 / _base_.num_classes) ** 0.5,
        loss=dict(type='SFaceLoss', s=64.0, k=80.0, a=0.88, b=1.25),
    ),
)
train_dataloader = dict(batch_size=128)
