# ElasticFace-Arc (arXiv 2109.09416), IResNet-100, MS1M: the authors' config/config.py,
# 4 GPUs x 128. Others of the paper: ElasticFace-Arc+ with sigma=0.0175, plus=True; -Cos
# with margin_type='cos', m=0.35; -Cos+ with sigma=0.025, plus=True besides. Not run.
_base_ = [
    '_base_/models/iresnet100.py',
    '_base_/datasets/ms1m.py',
    '_base_/schedules/elasticface_296k.py',
    '_base_/default_runtime.py',
]
model = dict(
    head=dict(
        num_classes=_base_.num_classes,
        init_std=0.01,
        loss=dict(type='ElasticFaceLoss', margin_type='arc', s=64.0, m=0.5, sigma=0.05),
    )
)
train_dataloader = dict(batch_size=128)
