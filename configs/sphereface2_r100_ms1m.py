# SphereFace2-C, IResNet-100, MS1M: OpenSphere's newer recipe. Not run here.
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
            type='SphereFace2Loss',
            margin_type='C',
            lam=0.8,
            r=64.0,
            m=0.5,
            t=3.0,
            loss_weight=50.0,
        ),
    ),
)
