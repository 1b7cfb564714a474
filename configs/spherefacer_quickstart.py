# SphereFace-R v2, hard feature normalisation on synthetic faces.
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
            type='SphereFaceRLoss',
            version='v2',
            feature_norm='hard',
            s=30.0,
            m=1.4,
        ),
    ),
)
