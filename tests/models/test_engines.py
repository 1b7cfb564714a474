"""Every engine against the dense formula in float64, on one and several processes."""

from collections.abc import Sequence
from pathlib import Path

import engine_matrix as matrix
import pytest
from engine_matrix import Case
from test_losses import CASES

# A rank without rows, and batches of one class, which most ranks do not have.
EDGES = [
    Case(loss, engine, world, classes, sampled, centres, update, world > 1)
    for loss in ('sphereface2-C-full', 'sphereface-r-v2-none-absolute-full')
    for engine, update in (
        ('dense', 'ordinary'),
        ('blocked', 'ordinary'),
        ('blocked', 'fused'),
        ('fused', 'fused'),
    )
    if engine in matrix.OPTIONS['engine']
    for sampled, centres in ((False, 'normalize'), (True, 'project'))
    for world, classes in ((1, 2), (3, 2), (3, 5))
]


def check(cases: Sequence[Case], folder: Path) -> None:
    wrong = [
        line
        for case, outcome in matrix.outcomes_of(cases, folder)
        for line in matrix.excesses(case, outcome)
    ]
    assert not wrong, f'{len(wrong)} differ\n' + '\n'.join(wrong[:40])


@pytest.mark.parametrize('world', [1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_error_is_at_most_twice_that_of_dense_arithmetic(tmp_path, world):
    cases = matrix.covering(matrix.every_case(matrix.FEW_LOSSES))
    check([case for case in cases + EDGES if case.world == world], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('world', [1, 2, 3])
def test_error_is_at_most_twice_that_of_dense_arithmetic_everywhere(tmp_path, world):
    cases = matrix.every_case(tuple(CASES))
    check([case for case in cases if case.world == world], tmp_path)


def test_the_subset_has_every_pair_of_options():
    cases = matrix.every_case(matrix.FEW_LOSSES)
    subset = matrix.covering(cases)
    assert len(subset) < 100
    for name, options in matrix.OPTIONS.items():
        assert {getattr(case, name) for case in subset} == set(options)
    assert {case.loss for case in subset} == set(matrix.FEW_LOSSES)

    def pairs_of(cases):
        return {pair for case in cases for pair in matrix.pairs(case)}

    assert pairs_of(subset) == pairs_of(cases)
    # And every loss with every option is there at all.
    losses = {type(CASES[name]()[0]) for name in CASES}
    assert {type(CASES[name]()[0]) for name in matrix.FEW_LOSSES} == losses
