# IR-50 of face.evoLVe, which SFace trains.
model = dict(
    type='FaceRecognizer',
    data_preprocessor=dict(type='FaceDataPreprocessor', channels_last=True),
    backbone=dict(
        type='IR', depth=50, variant='evolve', embedding_size=512, dropout=0.5
    ),
    head=dict(type='HypersphereHead', in_channels=512),
)
