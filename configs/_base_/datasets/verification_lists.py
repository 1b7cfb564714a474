# LFW, AgeDB-30, CA-LFW and CP-LFW as OpenSphere's lists, and all of them together, as
# SphereFace2 validates. To point elsewhere: --cfg-options data_root=FOLDER, which has
# the folder val.
data_root = 'data'
test_pipeline = [
    dict(type='LoadFace', size=(112, 112)),
    dict(type='PackFace'),
]
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='collate_faces'),
    dataset=dict(
        type='FaceTestSets',
        combined='combined',
        datasets=[
            dict(
                type='FacePairs',
                name=name,
                data_root=data_root,
                ann_file=f'val/{name}_ann.txt',
                data_prefix='val',
                folds=10,
                pipeline=test_pipeline,
                test_mode=True,
            )
            for name in ('lfw', 'agedb_30', 'calfw', 'cplfw')
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='FaceVerification')
test_evaluator = val_evaluator
