# SFNet-20 of the published tables, without batch norm.
model = dict(
    type='FaceRecognizer',
    data_preprocessor=dict(type='FaceDataPreprocessor', channels_last=True),
    backbone=dict(
        type='SFNet', depth=20, variant='paper', with_bn=False, embedding_size=512
    ),
    head=dict(type='HypersphereHead', in_channels=512),
)
