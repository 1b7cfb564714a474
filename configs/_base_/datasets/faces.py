# A folder of thousands of real faces, data_root/identity/image, and a list of pairs to
# verify on: LFW's View 2, ten folds (Huang et al., 2007), whose people must not be in
# the folder. lfw_root has pairs.txt, and the aligned images in faces/.
#   --cfg-options data_root=FOLDER lfw_root=FOLDER
#   lfw_pairs=pairsDevTest.txt  View 1; or a list of pairs of one's own (see FacePairs)
#   image_size=112
data_root = 'data/faces'
lfw_root = 'data/lfw'
lfw_pairs = 'pairs.txt'
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
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='collate_faces'),
    dataset=dict(type='FaceFolder', data_root=data_root, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='collate_faces'),
    dataset=dict(
        type='FacePairs',
        name='lfw',
        data_root=lfw_root,
        ann_file=lfw_pairs,
        data_prefix='faces',
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='FaceVerification')
test_evaluator = val_evaluator
