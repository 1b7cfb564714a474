model = dict(
    type='FaceRecognizer',
    data_preprocessor=dict(type='FaceDataPreprocessor', channels_last=True),
    backbone=dict(type='IResNet', depth=100, embedding_size=512),
    head=dict(type='HypersphereHead', in_channels=512),
)
