# SphereFace-R v2 (arXiv 2109.05565), SFNet-64 with batch norm, MS1M: in OpenSphere
# 032c31b's README as "to be added"; the setting of sphereface_sfnet64_ms1m.py with the
# loss of spherefacer_sfnet20_vggface2.py. Not run here.
_base_ = 'sphereface_sfnet64_ms1m.py'
model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
            type='SphereFaceRLoss',
            version='v2',
            feature_norm='hard',
            s=60.0,
            m=1.4,
            loss_weight=50.0 / 60.0,
        )
    )
)
