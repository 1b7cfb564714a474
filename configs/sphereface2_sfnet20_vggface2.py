# SphereFace2-C (arXiv 2108.01513, its tables), SFNet-20, VGGFace2: OpenSphere 032c31b,
# config/papers/SphereFace2/sec31/vggface2_sfnet20_sphereface2.yml. Not run here.
_base_ = '_base_/recipes/sfnet20_vggface2.py'
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
