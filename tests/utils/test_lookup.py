"""Ids among others, against a dict."""

import numpy as np
import pytest

from mmhyperface.utils.lookup import rows_of


@pytest.mark.parametrize('scale', [1, 10**7, -3])
def test_rows_of_ids(scale):
    """By a table and by a search, against a dict."""
    rng = np.random.default_rng(0)
    ids = np.unique(rng.integers(1, 500, 100) * scale)
    wanted = np.append(rng.integers(-10, 600, 1000) * scale, [2**40, -(2**40), *ids])
    place = {i: row for row, i in enumerate(ids.tolist())}
    rows = rows_of(ids, wanted)
    assert rows.dtype == np.int32
    assert rows.tolist() == [place.get(i, -1) for i in wanted.tolist()]
    assert rows_of(ids[:0], wanted).tolist() == [-1] * len(wanted)
    assert rows_of(ids, wanted[:0]).tolist() == []
