"""What a report tells, as plain data: the content of ``report.json``.

A number that is not finite is None: a rate that is not resolvable, a threshold that
accepts everything or nothing. A row whose result is not finite has no other.
"""

import datetime
import math
from collections.abc import Iterable, Mapping
from functools import singledispatch
from typing import Any

import numpy as np
import torch

from mmhyperface.version import __version__

from ..intervals import confidence_intervals
from ..results import (
    IdentificationResult,
    MegaFaceResult,
    Result,
    VerificationResult,
    rate_name,
)
from .missing import why_no_interval

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
    about: Mapping[str, str | None],
) -> dict[str, Any]:
    """The content without pictures and evidence, which are files."""
    return {
        'format': FORMAT,
        'title': title,
        'date': datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
        **about,
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


def finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


@singledispatch
def details(result: Result) -> dict[str, Any]:
    """What a protocol has besides figures: counts, thresholds, and what is its own."""
    raise TypeError(f'no report is known of {type(result).__name__}')


@details.register
def _(result: VerificationResult) -> dict[str, Any]:
    return {
        'counts': {
            'same pairs': result.num_same,
            'different pairs': result.num_different,
            **_identities(result),
        },
        'thresholds': [
            *accuracy_threshold(result),
            *_far_thresholds(result.fars, result.tars, result.thresholds),
        ],
        'accuracy_thresholds': [finite(x) for x in result.accuracy_thresholds],
    }


@details.register
def _(result: IdentificationResult) -> dict[str, Any]:
    return {
        'thresholds': [
            _threshold(f'tpir@fpir={rate_name(fpir)}', value, threshold, gallery)
            for fpir, values, thresholds in zip(
                result.fpirs, result.gallery_tpirs.T, result.thresholds.T, strict=True
            )
            for gallery, value, threshold in zip(
                result.galleries, values, thresholds, strict=True
            )
        ],
        'merged': result.merged,
        'cmc': [finite(rate) for rate in result.cmc],
    }


@details.register
def _(result: MegaFaceResult) -> dict[str, Any]:
    return {
        'thresholds': _far_thresholds(result.fars, result.tars, result.thresholds),
        'distractors': [
            {'asked': int(asked), 'used': int(used)}
            for asked, used in zip(result.distractors, result.used, strict=True)
        ],
    }


def accuracy_threshold(result: VerificationResult) -> list[dict[str, Any]]:
    """The median over the folds, or nothing where the protocol has no accuracy."""
    if not len(result.accuracy_thresholds):
        return []
    median = float(np.median(result.accuracy_thresholds))
    return [_threshold('accuracy', result.accuracy, median)]


def _identities(result: VerificationResult) -> dict[str, int]:
    if result.identity_a is None or result.identity_b is None:
        return {}
    shown = np.zeros(1 + max(result.identity_a.max(), result.identity_b.max()), bool)
    shown[result.identity_a] = True
    shown[result.identity_b] = True
    return {'identities': int(shown.sum())}


def _far_thresholds(
    fars: Iterable[float], tars: Iterable[float], thresholds: Iterable[float]
) -> list[dict[str, Any]]:
    return [
        _threshold(f'tar@far={rate_name(far)}', tar, threshold)
        for far, tar, threshold in zip(fars, tars, thresholds, strict=True)
    ]


def _threshold(
    figure: str, value: float, threshold: float, gallery: str | None = None
) -> dict[str, Any]:
    return {
        'figure': figure,
        'gallery': gallery,
        'value': finite(value),
        'threshold': finite(threshold),
    }


def _row(result: Result, draws: int, level: float, seed: int) -> dict[str, Any]:
    told = details(result)
    row = {
        'finite': result.finite,
        'convention': result.convention,
        'counts': result.counts | told.pop('counts', {}),
        'figures': {name: finite(value) for name, value in result.figures().items()},
        'evidence': None,
    }
    if not result.finite:
        empty: dict[str, Any] = {'intervals': {}, 'no_intervals': {}, 'thresholds': []}
        return {**row, **empty}
    return {**row, **_intervals(result, draws, level, seed), **told}


def _intervals(result: Result, draws: int, level: float, seed: int) -> dict[str, Any]:
    found = confidence_intervals(result, draws, level, seed) if draws else {}
    return {
        'intervals': {
            name: [finite(low), finite(high)] for name, (low, high) in found.items()
        },
        'no_intervals': {
            name: why_no_interval(result, name) if draws else NOT_DRAWN
            for name, value in result.figures().items()
            if name not in found and name != 'accuracy_std' and math.isfinite(value)
        },
    }
