# SphereFace-R v2 with hard feature normalisation (arXiv 2109.05565), SFNet-20,
# VGGFace2: OpenSphere 032c31b, config/train/vggface2_sfnet20_spherefacer.yml, lw 50.
# Not run here.
_base_ = '_base_/recipes/sfnet20_vggface2.py'
model = dict(
    head=dict(
        loss=dict(
            type='SphereFaceRLoss',
            version='v2',
            feature_norm='hard',
            s=60.0,
            m=1.4,
            loss_weight=50.0 / 60.0,
        )
    )
)
