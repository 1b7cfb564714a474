# CosFace (arXiv 1801.09414), IResNet-50, Glint360K: insightface,
# recognition/arcface_torch/configs/glint360k_r50.py, 8 GPUs x 128. Not run here.
_base_ = [
    '_base_/models/iresnet50.py',
    '_base_/datasets/glint360k.py',
    '_base_/schedules/insightface_334k.py',
    '_base_/default_runtime.py',
]
model = dict(
    head=dict(
        num_classes=_base_.num_classes,
        init_std=0.01,
        # As fast as fp16, in which insightface has them, with the range of fp32.
        matmul_dtype='bfloat16',
        loss=dict(type='CosFaceLoss', s=64.0, m=0.4),
    )
)
train_dataloader = dict(batch_size=128)
# The processes exchange gradients of the network in fp16, as there.
model_wrapper_cfg = dict(comm_dtype='float16')
