# SphereFace-R v2 with hard feature normalisation (arXiv 2109.05565), IResNet-100, MS1M:
# the loss of spherefacer_sfnet20_vggface2.py under OpenSphere's MS1M schedule.
# Not run here.
_base_ = '_base_/recipes/r100_ms1m.py'
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
