# A folder of real faces, data_root/identity/image. Five identities, drawn from a
# seed, are kept apart and verified on: all pairs of one person, as many of two.
# Another folder: --cfg-options data_root=PATH.
data_root = 'data/faces'
image_size = 64

train_pipeline = [
    dict(type='LoadFace', size=image_size),
    dict(
        type='RandomResizedCrop',
        scale=image_size,
        crop_ratio_range=(0.6, 1.0),
        aspect_ratio_range=(0.85, 1.15),
    ),
    dict(type='ColorJitter', brightness=0.3, contrast=0.3),
    dict(type='RandomFaceFlip', prob=0.5),
    dict(type='PackFace'),
]
test_pipeline = [
    dict(type='LoadFace', size=image_size),
    dict(type='PackFace'),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='collate_faces'),
    dataset=dict(
        type='FaceFolder',
        data_root=data_root,
        holdout=5,
        split='train',
        split_seed=0,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='collate_faces'),
    dataset=dict(
        type='FaceFolderPairs',
        name='heldout',
        data_root=data_root,
        holdout=5,
        split='test',
        split_seed=0,
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='FaceVerification')
test_evaluator = val_evaluator
