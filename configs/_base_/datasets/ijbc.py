# IJB-C, 1:1 and 1:N: 469,375 loose crops in 23,124 templates, aligned as they are read.
# data_root has the folders meta and loose_crop, as insightface distributes them.
_base_ = 'evaluation_images.py'
data_root = 'data/ijb/IJBC'
test_dataloader = dict(
    dataset=dict(
        type='IJBTemplates',
        data_root=data_root,
        subset='IJBC',
        pipeline=[
            dict(type='LoadFace', size=None),
            dict(type='AlignFace', size=(112, 112)),
            dict(type='PackFace'),
        ],
        test_mode=True,
    )
)
test_evaluator = [
    dict(type='TemplateVerification'),
    dict(type='TemplateIdentification'),
]
