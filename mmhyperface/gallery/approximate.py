"""An index of FAISS, which finds candidates that are scored exactly afterwards.

Rows are in lists around centroids (k-means), a byte a value; the lists nearest to a
query are looked through. The best row may be in a list that was left out.

Why such an index: of 100,000 rows of 512 values, all with the right person for each of
500 worse images, on one core, it took 13 s to build, 54 MB and 2.7 ms a query; the same
lists of float32 208 MB and 4.3 ms, HNSW32 203 s, 232 MB and 1.6 ms, and all products
22 ms.
"""

import math

import numpy as np

from mmhyperface.evaluation.arrays import Floats, Ints
from mmhyperface.utils.optional_imports import require

# Of N rows √N·LISTS lists, a share PROBED of which is looked through. Of 1/16 the right
# person was missed by 1 query of 200 in a million rows, by 6 of 500 in 100,000.
LISTS = 3.2
PROBED = 1 / 8
# Rows for a list, of which the centroids are found; FAISS asks for 39 at least.
TRAINED = 40
ROUNDS = 10
# Rows that are asked for, for each person that is wanted.
ROWS_EACH = 4


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
        # FAISS keeps a pointer to it only.
        self._quantizer = faiss.IndexFlatIP(width)
        self._index = faiss.IndexIVFScalarQuantizer(
            self._quantizer,
            width,
            lists,
            faiss.ScalarQuantizer.QT_8bit,
            faiss.METRIC_INNER_PRODUCT,
        )
        self._index.nprobe = max(math.ceil(PROBED * lists), min(lists, 16))
        self._index.cp.niter = ROUNDS
        # The same rows for the same gallery.
        trained = min(count, TRAINED * lists)
        places = np.random.default_rng(0).choice(count, trained, replace=False)
        self._index.train(matrix[np.sort(places)])
        self._index.add(matrix)

    def people(self, queries: Floats, owners: Ints, top_k: int) -> tuple[Ints, Ints]:
        """Pairs of a query and a person that may be among its `top_k` best, each once.

        Args:
            queries: [Q, D] of length 1.
            owners: [N], whom each row is of.
        """
        total = self._index.ntotal
        wanted = min(ROWS_EACH * top_k, total)
        single = np.ascontiguousarray(queries, np.float32)
        while True:
            _, rows = self._index.search(single, wanted)
            of, place = np.nonzero(rows >= 0)
            pairs = np.unique(np.stack([of, owners[rows[of, place]]]), axis=1)
            people = np.bincount(pairs[0], minlength=len(queries))
            # Where the images of few people fill the list, more are asked for; there
            # are no more where it is not full.
            full = (rows >= 0).all(1)
            if wanted == total or not (full & (people < top_k)).any():
                return pairs[0], pairs[1]
            wanted = min(4 * wanted, total)
