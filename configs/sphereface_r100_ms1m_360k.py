# SphereFace (arXiv 1704.08063), IResNet-100, MS1M: OpenSphere 032c31b,
# config/train/ms1m_iresnet100_sphereface.yml, 4 GPUs x 128. Not run here.
_base_ = [
    '_base_/models/iresnet100.py',
    '_base_/datasets/ms1m.py',
    '_base_/schedules/opensphere_360k.py',
    '_base_/default_runtime.py',
]
model = dict(
    head=dict(
        num_classes=_base_.num_classes,
        centres='project',
        loss=dict(type='SphereFaceLoss', s=32.0, m=1.7),
    )
)
train_dataloader = dict(batch_size=128)
