# Training on a list in OpenSphere's layout, and validation on its four lists.
_base_ = 'verification_lists.py'
data_root = 'data'
train_pipeline = [
    dict(type='LoadFace', size=(112, 112), resize=False),
    dict(type='RandomFaceFlip', prob=0.5),
    dict(type='PackFace'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='InfiniteFaceSampler', shuffle=True),
    collate_fn=dict(type='collate_faces'),
    dataset=dict(
        type='FaceList',
        data_root=data_root,
        ann_file='train/vggface2_train_ann.txt',
        data_prefix='train',
        pipeline=train_pipeline,
    ),
)
