_base_ = 'iresnet100.py'
model = dict(backbone=dict(depth=50))
