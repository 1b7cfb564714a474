# MS1M, refined: 85,742 identities, 112 x 112, in insightface's RecordIO layout, with
# the verification packs that come with it. To point elsewhere:
# --cfg-options data_root=/folder/with/train.rec
data_root = 'data/ms1m'
train_pipeline = [
    dict(type='LoadFace', size=(112, 112), resize=False),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadFace', size=(112, 112)),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='InfiniteFaceSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='FaceRecord',
        data_root=data_root,
        ann_file='train.rec',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='FaceTestSets',
        datasets=[
            dict(
                type='FacePack',
                data_root=data_root,
                ann_file=f'{name}.bin',
                pipeline=test_pipeline,
                test_mode=True,
            )
            for name in ('lfw', 'cfp_fp', 'agedb_30')
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='FaceVerification')
test_evaluator = val_evaluator
