# SphereFace2-C (arXiv 2108.01513), IResNet-100, MS1M: OpenSphere HEAD,
# config/train/ms1m_iresnet100_sphereface2.yml. Not run here.
_base_ = '_base_/recipes/r100_ms1m.py'
model = dict(
    head=dict(
        loss=dict(
            type='SphereFace2Loss',
            margin_type='C',
            lam=0.8,
            r=64.0,
            m=0.5,
            t=3.0,
            loss_weight=50.0,
        )
    )
)
