# Images a second over the number of processes, the centres split among them: softmax
# losses exchange a log-sum-exp, SphereFace2 and SFace only sums (arXiv 2108.01513,
# section 3.5). Short runs whose accuracy means nothing.
_base_ = '../_base_/studies/losses.py'
title = 'Model-parallel speed'
bases = dict(faces='../sphereface2_faces.py', ms1m='../sphereface2_r100_ms1m.py')
_common = {'model.head.sharded': True, 'model.head.centres': 'normalize'}
overrides = dict(
    faces={**_common, **_base_.small, 'epochs': 2},
    ms1m={**_common, 'train_cfg': dict(max_iters=300, val_interval=300)},
)
axes = dict(
    loss={
        name: _base_.in_papers[name]
        for name in ('SphereFace2-C', 'SFace', 'SphereFace-R v2', 'ArcFace', 'NormFace')
    },
    processes={
        str(n): dict(
            faces={'processes': n, 'train_dataloader.batch_size': 64 // n},
            ms1m={'processes': n, 'train_dataloader.batch_size': 512 // n},
        )
        for n in (1, 2, 4, 8)
    },
)
seeds = [0]
table = dict(rows='loss', columns='processes', figures=['median.images_per_s'])
plot = dict(x='processes', label='processes')
