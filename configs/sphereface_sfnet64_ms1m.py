# SphereFace (arXiv 1704.08063), SFNet-64 with batch norm, MS1M: OpenSphere 032c31b,
# config/train/ms1m_sfnet64bn_sphereface.yml, 4 GPUs x 128. That config builds the
# network without batch norm, against its name and README. Not run here.
_base_ = [
    '_base_/models/sfnet64_bn.py',
    '_base_/datasets/ms1m.py',
    '_base_/schedules/opensphere_240k_fp32.py',
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
