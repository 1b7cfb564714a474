# LFW, CFP-FP, AgeDB-30, CALFW and CPLFW as insightface's packs, and the four sets
# together that SphereFace2 validates on. To point elsewhere: --cfg-options
# data_root=FOLDER; fewer of them: val_dataloader.dataset.names=[lfw,cfp_fp].
data_root = 'data/val'
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
        type='FacePacks',
        data_root=data_root,
        names=['lfw', 'cfp_fp', 'agedb_30', 'calfw', 'cplfw'],
        combined=dict(combined=['lfw', 'agedb_30', 'calfw', 'cplfw']),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='FaceVerification')
test_evaluator = val_evaluator
