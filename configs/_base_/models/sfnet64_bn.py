# OpenSphere's newer SFNet-64, with batch norm.
_base_ = 'sfnet20.py'
model = dict(backbone=dict(depth=64, variant='opensphere', with_bn=True))
