"""Log lines that say in words why a figure is no number."""

import math
import re
from typing import Any

from mmengine.runner import LogProcessor as _LogProcessor
from mmengine.runner import Runner

from mmhyperface.evaluation.metrics.base import not_finite_sets
from mmhyperface.evaluation.protocols import NOT_FINITE, NOT_RESOLVABLE
from mmhyperface.registry import LOG_PROCESSORS


@LOG_PROCESSORS.register_module()
class LogProcessor(_LogProcessor):
    """mmengine's ``LogProcessor`` without ``nan`` among the figures of a test set.

    The line of a validation or test says ``not resolvable`` of a rate that the set is
    too small to tell, and ``not finite`` of figures whose embeddings are zero, NaN or
    infinite, or all alike. The scalars that it logs are NaN still.
    """

    def get_log_after_epoch(
        self,
        runner: Runner,
        batch_idx: int,
        mode: str,
        with_non_scalar: bool = False,
    ) -> tuple[dict[str, Any], str]:
        tag, line = super().get_log_after_epoch(
            runner, batch_idx, mode, with_non_scalar
        )
        loop = runner.val_loop if mode == 'val' else runner.test_loop
        names = {
            name.removeprefix(f'{mode}/'): name
            for name, value in tag.items()
            if isinstance(value, float)
        }
        figures = {figure: tag[name] for figure, name in names.items()}
        not_finite = not_finite_sets(loop, figures)
        for figure, name in names.items():
            if math.isnan(figures[figure]):
                is_finite = figure.rpartition('/')[0] not in not_finite
                words = NOT_RESOLVABLE if is_finite else NOT_FINITE
                line = re.sub(
                    rf'(?<=  ){re.escape(name)}: nan(?=  |$)', f'{name}: {words}', line
                )
        return tag, line
