# Training on a .rec file in insightface's layout, and validation on three of the packs
# that lie beside it. What a data set adds is its name and its folder.
_base_ = 'verification_packs.py'
data_root = 'data/ms1m'
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
        type='FaceRecord',
        data_root=data_root,
        ann_file='train.rec',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root, names=['lfw', 'cfp_fp', 'agedb_30'], combined=None
    )
)
test_dataloader = val_dataloader
