# SphereFace2 under wrong labels (arXiv 2108.01513, section 3.3), by two draws: an exact
# share of other people's names, and OpenSphere's own, which may draw the true name.
_base_ = '../_base_/studies/losses.py'
title = "SphereFace2 under wrong labels, ours and OpenSphere's draw"
bases = dict(
    faces='../sphereface2_faces.py', vggface2='../sphereface2_sfnet20_vggface2.py'
)
overrides = dict(faces={**_base_.small, **_base_.for_few['SphereFace2-C']}, vggface2={})


def _noise(share, seed):
    dataset = dict(type='LabelNoise', share=share / 100, seed=seed, dataset='_base_')
    return {'train_dataloader.dataset': dict(_delete_=True, **dataset)}


# The first wraps the training set, the second says how names are drawn.
axes = dict(
    noise={
        f'{share} %': dict(faces=_noise(share, '_seed_'), vggface2=_noise(share, 10086))
        for share in (20, 40, 60, 80)
    },
    draw={
        'another name': {'train_dataloader.dataset.to': 'any'},
        'OpenSphere': {'train_dataloader.dataset.to': 'opensphere'},
    },
)
table = dict(
    rows='draw',
    columns='noise',
    figures=dict(faces=['lfw.accuracy', 'lfw.auc'], vggface2=['combined.accuracy']),
)
plot = dict(x='noise', label='share of wrong labels')
