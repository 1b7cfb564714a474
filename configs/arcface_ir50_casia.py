# ArcFace (arXiv 1801.07698), IR-50, CASIA-WebFace, as SFace is compared with it: the
# authors' SFace_torch/train.sh, 2 GPUs x 128. That code draws the centres from Xavier
# uniform. See sface_ir50_casia.py for what else differs there. Not run here.
_base_ = 'sface_ir50_casia.py'
model = dict(
    head=dict(
        init_std=None,
        loss=dict(
            _delete_=True,
            type='ArcFaceLoss',
            s=64.0,
            m=0.5,
            beyond='linear',
            detach=False,
        ),
    )
)
