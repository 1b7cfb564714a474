# SphereFace2-C (arXiv 2108.01513), IResNet-50, CASIA-WebFace, in UniTSFace's setting
# (NeurIPS 2023, tables 4 and 5; its train.py), which does not tell its settings: here
# those of VGGFace2. Not run here.
_base_ = '_base_/recipes/r50_casia.py'
model = dict(
    head=dict(
        loss=dict(
            type='SphereFace2Loss',
            margin_type='C',
            lam=0.7,
            r=40.0,
            m=0.4,
            t=3.0,
            loss_weight=10.0,
        )
    )
)
