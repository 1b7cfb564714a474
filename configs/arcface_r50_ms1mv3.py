# ArcFace (arXiv 1801.07698), IResNet-50, MS1MV3: insightface,
# recognition/arcface_torch/configs/ms1mv3_r50.py, 8 GPUs x 128. Not run here.
_base_ = [
    '_base_/models/iresnet50.py',
    '_base_/datasets/ms1mv3.py',
    '_base_/schedules/insightface_101k.py',
    '_base_/default_runtime.py',
]
model = dict(
    head=dict(
        num_classes=_base_.num_classes,
        init_std=0.01,
        loss=dict(type='ArcFaceLoss', s=64.0, m=0.5),
    )
)
train_dataloader = dict(batch_size=128)
# The processes exchange gradients of the network in fp16, as there.
model_wrapper_cfg = dict(comm_dtype='float16')
