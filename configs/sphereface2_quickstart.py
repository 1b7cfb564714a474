# SphereFace2-C on synthetic faces.
_base_ = [
    '_base_/models/quickstart.py',
    '_base_/datasets/synthetic_faces.py',
    '_base_/schedules/quickstart.py',
    '_base_/quickstart_runtime.py',
]
model = dict(
    head=dict(
        num_classes=500,
        loss=dict(
            type='SphereFace2Loss',
            margin_type='C',
            lam=0.5,
            r=20.0,
            m=0.2,
            t=2.0,
            loss_weight=10.0,
        ),
    ),
)
