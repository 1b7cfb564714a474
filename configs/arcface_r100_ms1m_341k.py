# ArcFace (arXiv 1801.07698) with its paper's s and m, ResNet-100, MS1MV2, in the
# setting of sface_r100_ms1m.py: a baseline. Not run here.
_base_ = 'sface_r100_ms1m.py'
model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
            type='ArcFaceLoss',
            s=64.0,
            m=0.5,
            beyond='linear',
            detach=False,
        )
    )
)
