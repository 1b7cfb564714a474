# SFace on synthetic faces.
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
            type='SFaceLoss',
            s=16.0,
            k=20.0,
            a=0.87,
            b=1.2,
        ),
    ),
)
