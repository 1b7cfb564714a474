# SphereFace-R v2 with hard feature normalisation, IResNet-100, MS1M: the loss as
# published for VGGFace2 (s 60, m 1.4, lw 50) under OpenSphere's MS1M schedule.
# Not run here.
_base_ = [
    '_base_/models/iresnet100.py',
    '_base_/datasets/ms1m.py',
    '_base_/schedules/opensphere_240k.py',
    '_base_/default_runtime.py',
]
model = dict(
    # OpenSphere trains the last batch norm's weight, from 0.1.
    backbone=dict(freeze_features=False, features_init=0.1),
    head=dict(
        centres='project',
        loss=dict(
            type='SphereFaceRLoss',
            version='v2',
            feature_norm='hard',
            s=60.0,
            m=1.4,
            loss_weight=50.0 / 60.0,
        ),
    ),
)
