# A folder of faces of your own, root/identity/image, with ten or more people:
# --cfg-options data_root=FOLDER. The seed chooses the five people who are kept apart
# and verified on, the weights and the order. Minutes a run on a CPU.
title = 'Three methods on a folder of faces, verified on people kept apart'
bases = dict(folder='../sphereface2_facefolder.py')
overrides = {
    f'{loader}_dataloader.dataset.split_seed': '_seed_'
    for loader in ('train', 'val', 'test')
}
axes = dict(
    method={
        'SphereFace2-C': {},
        'SphereFace-R v2, hard': dict(config='../spherefacer_facefolder.py'),
        'SFace': dict(config='../sface_facefolder.py'),
    }
)
seeds = [0, 1, 2]
table = dict(
    rows='method',
    figures=[
        f'heldout.{figure}' for figure in ('accuracy', 'eer', 'auc', 'tar@far=1e-02')
    ],
)
