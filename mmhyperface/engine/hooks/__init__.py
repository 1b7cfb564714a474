from .angle_statistics import AngleStatisticsHook
from .centres_hook import CentresHook
from .checkpoint_hook import CheckpointHook
from .compile import CompileHook
from .convention_hook import ConventionHook
from .divergence_guard import DivergenceGuardHook
from .iteration_seed import IterationSeedHook
from .margin_scheduler import MarginSchedulerHook
from .runtime_info import RuntimeInfoHook
from .sanity import ClassCountHook
from .skipped_images import SkippedImagesHook
from .sync_statistics import SyncStatisticsHook
from .throughput import ThroughputHook
from .verification_report import VerificationReportHook

__all__ = [
    'AngleStatisticsHook',
    'CentresHook',
    'CheckpointHook',
    'ClassCountHook',
    'CompileHook',
    'ConventionHook',
    'DivergenceGuardHook',
    'IterationSeedHook',
    'MarginSchedulerHook',
    'RuntimeInfoHook',
    'SkippedImagesHook',
    'SyncStatisticsHook',
    'ThroughputHook',
    'VerificationReportHook',
]
