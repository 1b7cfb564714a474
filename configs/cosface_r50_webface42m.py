# CosFace with Partial FC (arXiv 2203.15565), IResNet-50, WebFace42M: insightface,
# recognition/arcface_torch/configs/wf42m_pfc02_8gpus_r50_bs4k.py, 8 GPUs x 512.
# Not run here.
_base_ = [
    '_base_/models/iresnet50.py',
    '_base_/datasets/webface42m.py',
    '_base_/schedules/insightface_207k.py',
    '_base_/default_runtime.py',
]
model = dict(
    head=dict(
        num_classes=_base_.num_classes,
        init_std=0.01,
        sample_rate=0.2,
        # Momentum and weight decay act on all centres in each step, also there.
        catch_up=True,
        # As fast as fp16, in which insightface has them, with the range of fp32.
        matmul_dtype='bfloat16',
        loss=dict(type='CosFaceLoss', s=64.0, m=0.4),
    )
)
train_dataloader = dict(batch_size=512)
# The processes exchange gradients of the network in fp16, as there.
model_wrapper_cfg = dict(comm_dtype='float16')
