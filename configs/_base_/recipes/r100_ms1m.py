# What OpenSphere's newer recipes for MS1M share: batch 512, here as 8 GPUs x 64.
# (OpenSphere has 4 x 128: on 4 GPUs set train_dataloader.batch_size=128.)
_base_ = [
    '../models/iresnet100.py',
    '../datasets/ms1m.py',
    '../schedules/opensphere_240k.py',
    '../default_runtime.py',
]
model = dict(
    # OpenSphere trains the last batch norm's weight, from 0.1.
    backbone=dict(freeze_features=False, features_init=0.1),
    head=dict(num_classes=_base_.num_classes, centres='project'),
)
train_dataloader = dict(batch_size=64)
