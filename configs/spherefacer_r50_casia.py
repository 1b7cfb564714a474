# SphereFace-R v1 with hard feature normalisation (arXiv 2109.05565), IResNet-50,
# CASIA-WebFace, in UniTSFace's setting (NeurIPS 2023, tables 4 and 5; its train.py),
# which does not tell its s and m: here OpenSphere's defaults. Not run here.
_base_ = '_base_/recipes/r50_casia.py'
model = dict(
    head=dict(
        loss=dict(
            type='SphereFaceRLoss',
            version='v1',
            feature_norm='hard',
            s=30.0,
            m=1.5,
            loss_weight=50.0 / 30.0,
        )
    )
)
