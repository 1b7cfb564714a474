# A small SFNet for 64 x 64 faces: minutes on a laptop.
model = dict(
    type='FaceRecognizer',
    data_preprocessor=dict(type='FaceDataPreprocessor', channels_last=True),
    backbone=dict(
        type='SFNet',
        depth=10,
        variant='opensphere',
        with_bn=True,
        widths=(16, 32, 64, 128),
        input_size=64,
        embedding_size=128,
    ),
    head=dict(type='HypersphereHead', in_channels=128),
)
