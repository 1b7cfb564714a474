# A folder of thousands of real faces, data_root/identity/image, and a list of pairs to
# verify on: LFW's View 2, ten folds (Huang et al., 2007), whose people must not be in
# the folder. lfw_root has pairs.txt, and the aligned images in faces/.
#   --cfg-options data_root=FOLDER lfw_root=FOLDER
#   lfw_pairs=pairsDevTest.txt  View 1; or a list of pairs of one's own (see FacePairs)
#   image_size=112
_base_ = 'facefolder.py'
lfw_root = 'data/lfw'
lfw_pairs = 'pairs.txt'

train_dataloader = dict(
    batch_size=64,
    sampler=dict(type='DefaultSampler'),
    dataset=dict(
        _delete_=True,
        type='FaceFolder',
        data_root=_base_.data_root,
        pipeline=_base_.train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='FacePairs',
        name='lfw',
        data_root=lfw_root,
        ann_file=lfw_pairs,
        data_prefix='faces',
        pipeline=_base_.test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
