# MegaFace: 3,530 images of 80 people of FaceScrub, and a million distractors. data_root
# has insightface's aligned images, their lists, and those of the noise.
_base_ = 'evaluation_images.py'
data_root = 'data/megaface'
test_dataloader = dict(
    dataset=dict(
        type='MegaFaceImages',
        data_root=data_root,
        pipeline=[dict(type='LoadFace', size=(112, 112)), dict(type='PackFace')],
        test_mode=True,
    )
)
test_evaluator = [dict(type='MegaFaceIdentification')]
