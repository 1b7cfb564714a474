"""Search with FAISS: candidates of an index, scored as :mod:`.exact` scores.

Rows are in lists around centroids (k-means), a byte a value; the lists nearest to a
query are looked through. What is found so has its exact score, but the best may be in a
list that was left out.

Why such an index: of 100,000 rows of 512 values, all with the right person for each of
500 worse images, on one core, it took 13 s to build, 54 MB and 2.7 ms a query; the same
lists of float32 208 MB and 4.3 ms, HNSW32 203 s, 232 MB and 1.6 ms, and all products
22 ms.
"""

import math

import numpy as np

from mmhyperface.evaluation.functional.arrays import Floats, Ints
from mmhyperface.utils.optional_imports import require

from .matches import Found, best_of, cosines, ranked
from .rows import Members

# Of N rows √N·LISTS lists, a share PROBED of which is looked through. Of 1/16 the right
# person was missed by 1 query of 200 in a million rows, by 6 of 500 in 100,000.
LISTS = 3.2
PROBED = 1 / 8
# Rows for a list, of which the centroids are found; FAISS asks for 39 at least.
TRAINED = 40
ROUNDS = 10
# Rows that are asked for, for each person that is wanted.
ROWS_EACH = 4
# Queries at a time, of whose candidates all rows are compared.
QUERIES = 128


class ApproximateIndex:
    """An index of rows, which it copies to a quarter of their memory.

    Args:
        matrix: float32 [N, D] of length 1.

    Raises:
        UserError: If FAISS is not installed.
    """

    def __init__(self, matrix: Floats) -> None:
        faiss = require('faiss', 'faiss')
        count, width = matrix.shape
        lists = max(min(int(LISTS * math.sqrt(count)), count // TRAINED), 1)
        quantizer = faiss.IndexFlatIP(width)
        self._index = faiss.IndexIVFScalarQuantizer(
            quantizer,
            width,
            lists,
            faiss.ScalarQuantizer.QT_8bit,
            faiss.METRIC_INNER_PRODUCT,
        )
        # FAISS keeps a pointer to it only.
        self._quantizer = quantizer
        self._index.nprobe = max(math.ceil(PROBED * lists), min(lists, 16))
        self._index.cp.niter = ROUNDS
        self._index.train(matrix[_sample(count, TRAINED * lists)])
        self._index.add(matrix)

    def search(
        self,
        queries: Floats,
        matrix: Floats,
        owners: Ints,
        members: Members,
        top_k: int,
        least: float,
    ) -> Found:
        """See :func:`.exact.search`; `members` are the rows of `owners`."""
        parts = []
        for start in range(0, len(queries), QUERIES):
            block = queries[start : start + QUERIES]
            of, people = self._people(block, owners, top_k)
            # All rows of a person, so that its score is that of the best of them.
            which, rows = members.of_each(people)
            scores = cosines(block, of[which], matrix, rows)
            found = best_of(Found(of[which] + start, people[which], rows, scores))
            parts.append(ranked(found, top_k, least))
        return Found.joined(parts)

    def _people(self, queries: Floats, owners: Ints, top_k: int) -> tuple[Ints, Ints]:
        """Pairs of a query and a person that may be among its best, each once."""
        total = self._index.ntotal
        wanted = min(ROWS_EACH * top_k, total)
        wide = np.ascontiguousarray(queries, np.float32)
        while True:
            _, rows = self._index.search(wide, wanted)
            of, place = np.nonzero(rows >= 0)
            pairs = np.unique(np.stack([of, owners[rows[of, place]]]), axis=1)
            people = np.bincount(pairs[0], minlength=len(queries))
            # Where the images of few people fill the list, more are asked for; there
            # are no more where it is not full.
            full = (rows >= 0).all(1)
            if wanted == total or not (full & (people < top_k)).any():
                return pairs[0], pairs[1]
            wanted = min(4 * wanted, total)


def _sample(count: int, wanted: int) -> Ints:
    """Places of rows, in ascending order; the same for the same gallery."""
    if wanted >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, wanted, replace=False))
