# SphereFace2's study of label noise: 60 % of the images under the name of another
# person. (OpenSphere draws for each image whether it is wrong, from a generator of its
# own, and may draw the true name; here the share is exact and all of them are wrong.)
_base_ = 'sfnet20_vggface2.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='LabelNoise',
        share=0.6,
        seed=10086,
        dataset=_base_.train_dataloader.dataset,
    )
)
