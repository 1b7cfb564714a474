# MagFace (arXiv 2103.06627), IResNet-100, MS1M: a baseline, the authors' loss under
# OpenSphere's MS1M schedule. Not run here.
_base_ = '_base_/recipes/r100_ms1m.py'
model = dict(
    # Norms start at sqrt(512), within [l_a, u_a]: below l_a nothing would raise them.
    backbone=dict(freeze_features=True, features_init=1.0),
    head=dict(
        loss=dict(
            type='MagFaceLoss',
            s=64.0,
            l_a=10.0,
            u_a=110.0,
            l_m=0.45,
            u_m=0.8,
            lam_g=35.0,
            beyond='easy',
        )
    ),
)
