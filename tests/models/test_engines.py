"""Every engine against the dense formula in float64, on one and several processes."""

from collections.abc import Sequence
from pathlib import Path

import engine_matrix as matrix
import pytest
from engine_matrix import Case
from test_losses import CASES

from mmhyperface.ops import compiler_missing

# A rank without rows, and batches of one class, which most ranks do not have.
EDGES = [
    Case(loss, engine, world, classes, sampled, centres, update, world > 1)
    for loss in ('sphereface2-C-full', 'sphereface-r-v2-none-absolute-full')
    for engine, update in (
        ('dense', 'ordinary'),
        ('blocked', 'ordinary'),
        ('blocked', 'fused'),
    )
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


needs_compiler = pytest.mark.skipif(
    compiler_missing('cpu') is not None, reason=f'{compiler_missing("cpu")}'
)


@needs_compiler
def test_compiled_losses_are_as_exact(tmp_path):
    """On blocks of 100 classes and a remainder, with rows that step or do not."""
    cases = [
        Case('sphereface2-C-full', 'fused', 1, 252, False, 'normalize', update, False)
        for update in ('ordinary', 'fused')
    ]
    check([*cases, cases[1]._replace(loss='magface-none-full')], tmp_path)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ('losses', 'world'), [(matrix.FEW_LOSSES, 1), (matrix.FEW_LOSSES[::3], 3)]
)
def test_compiled_losses_are_as_exact_everywhere(tmp_path, losses, world):
    cases = matrix.every_case(losses)
    cases = [case for case in cases if case.engine == 'blocked' and case.world == world]
    check([c._replace(engine='fused') for c in matrix.covering(cases)], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('world', [1, 2, 3])
def test_error_is_at_most_twice_that_of_dense_arithmetic_everywhere(tmp_path, world):
    cases = matrix.every_case(tuple(CASES))
    check([case for case in cases if case.world == world], tmp_path)


def test_the_subset_has_every_pair_of_options():
    cases = matrix.every_case(matrix.FEW_LOSSES)
    subset = matrix.covering(cases)
    assert len(subset) < 120
    for name, options in matrix.OPTIONS.items():
        assert {getattr(case, name) for case in subset} == set(options)
    assert {case.loss for case in subset} == set(matrix.FEW_LOSSES)

    def pairs_of(cases):
        return {pair for case in cases for pair in matrix.pairs(case)}

    assert pairs_of(subset) == pairs_of(cases)
    # And every loss with every option is there at all.
    losses = {type(CASES[name]()[0]) for name in CASES}
    assert {type(CASES[name]()[0]) for name in matrix.FEW_LOSSES} == losses
