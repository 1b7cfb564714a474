# SphereFace2-C, on a folder of thousands of real faces:
# --cfg-options data_root=FOLDER lfw_root=FOLDER
_base_ = [
    '_base_/models/faces.py',
    '_base_/datasets/faces.py',
    '_base_/schedules/faces.py',
    '_base_/faces_runtime.py',
]
model = dict(
    head=dict(
        num_classes='auto',  # counted in the folder
        loss=dict(
            type='SphereFace2Loss',
            margin_type='C',
            lam=0.7,
            r=30.0,
            m=0.3,
            t=3.0,
            loss_weight=10.0,
        ),
    ),
)
