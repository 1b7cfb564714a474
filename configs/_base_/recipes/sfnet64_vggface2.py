_base_ = 'sfnet20_vggface2.py'
model = dict(backbone=dict(depth=64))
