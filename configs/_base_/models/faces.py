# SFNet-20 at a quarter of its widths, with batch norm.
_base_ = 'quickstart.py'
model = dict(backbone=dict(depth=20))
