from .centres import CentresHook
from .checkpoint import CheckpointHook
from .iteration_seed import IterationSeedHook
from .margin_scheduler import MarginSchedulerHook
from .sanity import ClassCountHook, NonFiniteLossHook
from .skipped_images import SkippedImagesHook
from .sync_statistics import SyncStatisticsHook
from .verification_report import VerificationReportHook

__all__ = [
    'CentresHook',
    'CheckpointHook',
    'ClassCountHook',
    'IterationSeedHook',
    'MarginSchedulerHook',
    'NonFiniteLossHook',
    'SkippedImagesHook',
    'SyncStatisticsHook',
    'VerificationReportHook',
]
