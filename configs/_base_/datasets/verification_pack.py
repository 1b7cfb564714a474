# One of insightface's packs: what a test set adds is its file.
_base_ = 'evaluation_images.py'
data_root = 'data/val'
test_dataloader = dict(
    dataset=dict(
        type='FacePack',
        data_root=data_root,
        pipeline=[dict(type='LoadFace', size=(112, 112)), dict(type='PackFace')],
        test_mode=True,
    )
)
test_evaluator = [dict(type='FaceVerification')]
