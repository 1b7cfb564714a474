# SphereFace-R v2, hard feature normalisation, on a folder of real faces:
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
            type='SphereFaceRLoss',
            version='v2',
            feature_norm='hard',
            s=30.0,
            m=1.4,
        ),
    ),
)
