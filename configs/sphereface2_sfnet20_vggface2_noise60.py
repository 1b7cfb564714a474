# SphereFace2-C, SFNet-20, VGGFace2 with 60 % label noise (arXiv 2108.01513, section
# 3.3): OpenSphere 032c31b,
# config/papers/SphereFace2/sec33/noisy_vggface2_sfnet20_sphereface2.yml. Not run here.
_base_ = '_base_/recipes/sfnet20_vggface2_noise60.py'
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
