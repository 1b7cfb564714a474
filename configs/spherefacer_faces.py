# SphereFace-R v2, hard feature normalisation, on a folder of thousands of real faces:
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
            type='SphereFaceRLoss',
            version='v2',
            feature_norm='hard',
            s=30.0,
            m=1.4,
        ),
    ),
)
