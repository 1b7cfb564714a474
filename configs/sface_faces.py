# SFace, on a folder of thousands of real faces:
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
            type='SFaceLoss',
            s=16.0,
            k=20.0,
            a=0.87,
            b=1.2,
        ),
    ),
)
