# SFace, on a folder of real faces:
# --cfg-options data_root=PATH
_base_ = [
    '_base_/models/quickstart.py',
    '_base_/datasets/facefolder.py',
    '_base_/schedules/facefolder.py',
    '_base_/quickstart_runtime.py',
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
