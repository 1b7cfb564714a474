# SphereFace2-C (arXiv 2108.01513), SFNet-64 with batch norm, MS1M: in OpenSphere
# 032c31b's README as "to be added"; the setting of sphereface_sfnet64_ms1m.py with the
# loss of sphereface2_r100_ms1m.py. Not run here.
_base_ = 'sphereface_sfnet64_ms1m.py'
model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
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
