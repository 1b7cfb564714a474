_base_ = 'default_runtime.py'
default_hooks = dict(
    logger=dict(interval=50),
    report=dict(baselines=['pixels', 'untrained']),
    checkpoint=dict(interval=100, max_keep_ckpts=2),
)
