# Which variant of SphereFace-R (arXiv 2109.05565) bears a growing margin? v0 without
# detachment is SphereFace of 2017. Gradients are not clipped; the margin of "none" and
# "soft" is annealed over the first half, as published.
_base_ = '../_base_/studies/drawn.py'
title = 'SphereFace-R with growing margins on drawn faces'


def _variant(version, feature_norm, detach=True):
    loss = dict(
        type='SphereFaceRLoss',
        version=version,
        feature_norm=feature_norm,
        s=30.0,
        detach=detach,
    )
    annealed = dict(type='MarginSchedulerHook', policy='linear', start=1.0, end=200)
    return {
        'model.head.loss': loss,
        'custom_hooks': [] if feature_norm == 'hard' else [annealed],
        # So high that it only logs the norm.
        'optim_wrapper.clip_grad.max_norm': 1e9,
    }


axes = dict(
    variant={
        'v0 none, no detachment': _variant('v0', 'none', detach=False),
        'v0 hard, no detachment': _variant('v0', 'hard', detach=False),
        'v1 none': _variant('v1', 'none'),
        'v1 hard': _variant('v1', 'hard'),
        'v1 soft': _variant('v1', 'soft'),
        'v2 none': _variant('v2', 'none'),
        'v2 hard': _variant('v2', 'hard'),
        'v2 soft': _variant('v2', 'soft'),
    },
    m={str(m): {'model.head.loss.m': m} for m in (1.5, 2.5, 4.0)},
)
table = dict(
    rows='variant', columns='m', figures=['synthetic.accuracy', 'max.grad_norm']
)
plot = dict(x='m', label='margin m')
