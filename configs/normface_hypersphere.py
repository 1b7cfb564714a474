# Ten people on the circle, for pictures of what losses do to embeddings: a minute on a
# CPU core. Another loss:
#   --cfg-options model.head.loss.type=ArcFaceLoss model.head.loss.m=0.2
# On the sphere:
#   --cfg-options model.backbone.embedding_size=3 model.head.in_channels=3
# tools/analysis_tools/plot_hypersphere.py draws them.
_base_ = [
    '_base_/models/quickstart.py',
    '_base_/datasets/synthetic_faces.py',
    '_base_/schedules/quickstart.py',
    '_base_/quickstart_runtime.py',
]
image_size = 32
num_identities = 10

model = dict(
    backbone=dict(input_size=image_size, embedding_size=2),
    head=dict(
        num_classes=num_identities,
        in_channels=2,
        loss=dict(type='NormFaceLoss'),
    ),
)
# Pictures of one person that differ less than usual, and shorter steps: two dimensions
# do not hold much, and are slow to get into order.
train_dataloader = dict(
    dataset=dict(
        num_identities=num_identities,
        images_per_identity=60,
        image_size=image_size,
        difficulty=0.5,
    )
)
optim_wrapper = dict(optimizer=dict(lr=0.05))
# Other people, whom two dimensions cannot tell apart: they are not what it is about.
val_dataloader = dict(
    dataset=dict(
        num_identities=20,
        images_per_identity=4,
        num_pairs=200,
        first_identity=num_identities,
        image_size=image_size,
    )
)
test_dataloader = val_dataloader
