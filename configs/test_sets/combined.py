# LFW, AgeDB-30, CALFW and CPLFW, and the four together, as SphereFace2 validates.
_base_ = '../_base_/datasets/evaluation_images.py'
data_root = 'data/val'
names = ['lfw', 'agedb_30', 'calfw', 'cplfw']
test_dataloader = dict(
    dataset=dict(
        type='FaceTestSets',
        combined=dict(combined=names),
        datasets=[
            dict(
                type='FacePack',
                ann_file=f'{name}.bin',
                data_root=data_root,
                pipeline=[
                    dict(type='LoadFace', size=(112, 112)),
                    dict(type='PackFace'),
                ],
                test_mode=True,
            )
            for name in names
        ],
    )
)
test_evaluator = [dict(type='FaceVerification')]
