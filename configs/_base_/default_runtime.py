default_scope = 'mmhyperface'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=5000, max_keep_ckpts=3
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    iteration_seed=dict(type='IterationSeedHook'),
    sync_statistics=dict(type='SyncStatisticsHook'),
    class_count=dict(type='ClassCountHook'),
    centres=dict(type='CentresHook'),
    skipped_images=dict(type='SkippedImagesHook'),
    throughput=dict(type='ThroughputHook'),
    convention=dict(type='ConventionHook'),
    divergence_guard=dict(type='DivergenceGuardHook'),
    angles=dict(type='AngleStatisticsHook'),
    # Raw pixels as a baseline too are for small test sets: they are kept in memory.
    report=dict(type='VerificationReportHook', baselines=['untrained']),
)
# On GPUs default_hooks.compile.type=CompileHook takes less memory, after minutes of
# compiling; with default_hooks.compile.mode=reduce-overhead the host also launches far
# less, as CUDA graphs.
custom_hooks: list = []

env_cfg = dict(
    cudnn_benchmark=True,
    # tf32=True lets GPUs round fp32 products to TF32, also in the head; torch does so
    # in convolutions only.
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # Without a GPU the tools take gloo. Seconds that a rank waits for another, which
    # may be rank 0 as it computes a validation's figures or writes a checkpoint alone:
    # set more where that takes longer. A rank that dies ends the others at once.
    dist_cfg=dict(backend='nccl', timeout=3600),
)
# mmengine's own wrapper cannot wrap a model that lies on the CPU.
model_wrapper_cfg = dict(type='mmhyperface.FaceDistributedDataParallel')

visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
log_processor = dict(type='LogProcessor', by_epoch=False, window_size=100)
log_level = 'INFO'
# Its checkpoints fit any number of processes; above this size of the centres they
# are folders, which all processes must see.
runner_type = 'mmhyperface.FaceRunner'
centre_parts_above = '1GB'
load_from = None
# 'drop' or 'map' (by identity name) to train on other identities than load_from's.
load_centres = 'all'
resume = False
randomness = dict(seed=0, deterministic=False)
