# Rendered faces, no download: training and verification identities are disjoint.
image_size = 64
num_identities = 500

train_pipeline = [
    dict(type='RandomFaceFlip', prob=0.5),
    dict(type='PackFace'),
]
test_pipeline = [dict(type='PackFace')]
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='collate_faces'),
    dataset=dict(
        type='SyntheticFaces',
        num_identities=num_identities,
        images_per_identity=20,
        image_size=image_size,
        cache_images=True,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='collate_faces'),
    dataset=dict(
        type='SyntheticFacePairs',
        name='synthetic',
        num_identities=200,
        images_per_identity=10,
        num_pairs=2000,
        first_identity=num_identities,
        image_size=image_size,
        cache_images=True,
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='FaceVerification')
test_evaluator = val_evaluator
