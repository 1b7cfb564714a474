# Studies without data: the quickstart's network and drawn people at a size of some
# fifteen seconds a run on one CPU core. Each seed has people, weights, order and wrong
# labels of its own. bases are relative to the study that inherits this.
bases = dict(drawn='../sphereface2_quickstart.py')
overrides = {
    'model.backbone': dict(widths=(8, 16, 32, 64), input_size=32, embedding_size=64),
    'model.head': dict(in_channels=64, num_classes=100),
    'train_dataloader.batch_size': 64,
    'train_dataloader.dataset': dict(
        num_identities=100, images_per_identity=40, image_size=32, seed='_seed_'
    ),
    'val_dataloader.dataset': dict(
        first_identity=100, num_pairs=4000, image_size=32, seed='_seed_'
    ),
    'train_cfg': dict(max_iters=400, val_interval=400),
    'param_scheduler.0.end': 50,
    'param_scheduler.1.begin': 50,
    'param_scheduler.1.end': 400,
}
seeds = [0, 1, 2]
