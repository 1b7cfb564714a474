"""What a report tells, as plain data: the content of ``report.json``.

A number that is not finite is None: a rate that is not resolvable, a threshold that
accepts everything or nothing. A row whose result is not finite has no other.
"""

import datetime
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mmhyperface.version import __version__

from ..intervals import confidence_intervals
from ..protocols import Result
from ..protocols.base import finite

FORMAT = 1
NOT_DRAWN = 'none were asked for'

# Test set -> protocol -> row (a model, or a baseline) -> result.
Sets = Mapping[str, Mapping[str, Mapping[str, Result]]]


def content_of(
    sets: Sets,
    title: str,
    draws: int,
    level: float,
    seed: int,
    config: str | None = None,
    checkpoint: str | None = None,
) -> dict[str, Any]:
    """The content without pictures and evidence, which are files."""
    return {
        'format': FORMAT,
        'title': title,
        'date': datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
        'config': config,
        'checkpoint': checkpoint,
        'versions': {
            'mmhyperface': __version__,
            'torch': str(torch.__version__),
            'numpy': np.__version__,
        },
        'intervals': {'draws': draws, 'level': level, 'seed': seed},
        'sets': {
            name: {
                protocol: {
                    'pictures': [],
                    'rows': {
                        row: _row(result, draws, level, seed)
                        for row, result in rows.items()
                    },
                }
                for protocol, rows in protocols.items()
            }
            for name, protocols in sets.items()
        },
    }


def _row(result: Result, draws: int, level: float, seed: int) -> dict[str, Any]:
    details = result.details()
    row = {
        'finite': result.finite,
        'convention': result.convention,
        'counts': result.counts | details.pop('counts', {}),
        'figures': {name: finite(value) for name, value in result.figures().items()},
        'evidence': None,
    }
    if not result.finite:
        empty: dict[str, Any] = {'intervals': {}, 'no_intervals': {}, 'thresholds': []}
        return {**row, **empty}
    return {**row, **_intervals(result, draws, level, seed), **details}


def _intervals(result: Result, draws: int, level: float, seed: int) -> dict[str, Any]:
    drawn = confidence_intervals(result, draws, level, seed) if draws else {}
    spreads = {figure.spread for figure in result.FIGURES}
    return {
        'intervals': {name: list(map(finite, ends)) for name, ends in drawn.items()},
        'no_intervals': {
            name: result.why_no_interval(name) if draws else NOT_DRAWN
            for name, value in result.figures().items()
            if name not in drawn and name not in spreads and math.isfinite(value)
        },
    }
