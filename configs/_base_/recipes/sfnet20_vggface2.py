# What OpenSphere's recipes for VGGFace2 share at revision 032c31b: 4 GPUs x 128.
_base_ = [
    '../models/sfnet20.py',
    '../datasets/vggface2_list.py',
    '../schedules/opensphere_70k.py',
    '../default_runtime.py',
]
model = dict(head=dict(num_classes=_base_.num_classes, centres='project'))
train_dataloader = dict(batch_size=128)
