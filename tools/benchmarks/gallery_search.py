"""Search in a gallery of a million embeddings: latency, memory, what FAISS misses.

Embeddings are drawn: people are directions whose spread over the dimensions falls off,
as that of real embeddings does; each has several images around it, at a cosine of 0.7
to each other, and queries are worse images of some (`mates`), and people who are not
enrolled (`strangers`). Contenders:

- `X @ q`: the floor, the products with all embeddings alone;
- `X @ q, argsort`: what one would write;
- `exact`, `faiss`: the gallery's search for five people;
- `FAISS flat`, `FAISS HNSW32`: with ``--others``, bare indexes of FAISS. HNSW32 takes
  an hour to build for a million embeddings.

Latencies are medians in wall time, or in processor time with ``--processor-time``: that
of one thread is the latency on it, whatever else the machine does. Contenders take
turns. Recall is the share of
queries whose best person is that of the exact search. Memory is what a contender keeps
besides the embeddings, and what one more search takes at its peak.

    OMP_NUM_THREADS=2 python tools/benchmarks/gallery_search.py --size 1000000
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from common import benchmark_parser, new_table, processor, resident, write_json
from rich.console import Console
from rich.table import Table

from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError

if TYPE_CHECKING:
    from mmhyperface.gallery import FaceGallery

# Queries at a time, and the share of the repeats that they are measured in.
BATCHES = {1: 1.0, 16: 0.5, 100: 0.2}
TOP_K = 5
# Candidates of bare indexes: images of five people.
CANDIDATES = 20
# Decay of the spread: about 2·DECAY dimensions count.
DECAY = 75
FLOOR = 'X @ q'
OTHERS = {'flat': 'Flat', 'hnsw': 'HNSW32'}

Best = Callable[[np.ndarray], Any]


@dataclass
class Row:
    """A contender and its figures.

    Attributes:
        search: of queries [Q, D]; the best person of each, or nothing.
        build: seconds, None if there is nothing to build.
        kept: MB besides the embeddings.
        peak: MB of one search of the largest batch.
        most: queries at a time that it is measured with.
        latency: seconds by number of queries.
        recall: of mates and strangers.
    """

    name: str
    search: Best
    build: float | None = None
    kept: float = 0.0
    peak: float = 0.0
    most: int = max(BATCHES)
    latency: dict[int, float] = field(default_factory=dict)
    recall: tuple[float, float] | None = None


def parse_args() -> argparse.Namespace:
    parser = benchmark_parser(__doc__)
    add = parser.add_argument
    add('--size', type=int, default=1_000_000, help='embeddings')
    add('--dimensions', type=int, default=512)
    add('--images', type=int, default=4, help='of each person')
    add('--queries', type=int, default=1000, help='mates, and as many strangers')
    add('--repeats', type=int, default=20, help='of searches for one query')
    add('--processor-time', action='store_true', help='of one thread, not wall time')
    add('--others', nargs='+', choices=list(OTHERS), default=[])
    add('--folder', type=Path, help='to save the gallery in; default: a temporary one')
    args = parser.parse_args()
    if args.dimensions < 2 or min(args.images, args.repeats) < 1:
        raise UserError('--dimensions is from 2 on, --images and --repeats from 1 on')
    if args.processor_time and os.environ.get('OMP_NUM_THREADS') != '1':
        raise UserError('--processor-time is of one thread: set OMP_NUM_THREADS=1')
    if args.queries < max(BATCHES) or args.size < CANDIDATES * args.images:
        raise UserError(
            f'--queries is from {max(BATCHES)} on, --size from {CANDIDATES} people on'
        )
    return args


# ---- what is searched


class Population:
    """Embeddings, and queries with the person they are of."""

    def __init__(self, size: int, width: int, images: int, queries: int) -> None:
        self._rng = np.random.default_rng(0)
        self._spread = np.exp(-np.arange(width) / (2 * DECAY)).astype(np.float32)
        self.owners = np.arange(size) // images
        centres = self._directions(int(self.owners[-1]) + 1)
        self.rows = np.empty((size, width), np.float32)
        for start in range(0, size, 2**16):
            part = slice(start, start + 2**16)
            self.rows[part] = self._images(centres[self.owners[part]], 0.7)
        of = self._rng.integers(0, len(centres), queries)
        self.mates = self._images(centres[of], 0.55)
        self.strangers = self._directions(queries)

    def _directions(self, count: int) -> np.ndarray:
        drawn = self._rng.standard_normal((count, len(self._spread)), np.float32)
        return _unit(drawn * self._spread)

    def _images(self, centres: np.ndarray, share: float) -> np.ndarray:
        noise = self._directions(len(centres))
        return _unit(share**0.5 * centres + (1 - share) ** 0.5 * noise)


def _unit(rows: np.ndarray) -> np.ndarray:
    rows /= np.sqrt(np.einsum('ij,ij->i', rows, rows))[:, None]
    return rows


# ---- contenders


def floor_of(rows: np.ndarray) -> Row:
    def search(queries: np.ndarray) -> None:
        # A vector takes another, quicker routine than a matrix of one column.
        rows @ (queries[0] if len(queries) == 1 else queries.T)

    return Row(FLOOR, search)


def naive(rows: np.ndarray, owners: np.ndarray) -> Row:
    def search(queries: np.ndarray) -> np.ndarray:
        return owners[np.argsort(-(rows @ queries[0]))[:1]]

    return Row(f'{FLOOR}, argsort', search, most=1)


def ours(gallery: FaceGallery, index: str, mate: np.ndarray) -> Row:
    def search(queries: np.ndarray) -> np.ndarray:
        matches = gallery.search(queries, TOP_K, index=index)
        return np.array([int(one[0].person) if one else -1 for one in matches])

    before, start = resident('VmRSS'), time.perf_counter()
    search(mate)
    build = time.perf_counter() - start
    kept = resident('VmRSS') - before
    return Row(index, search, build if index == 'faiss' else None, kept)


def bare(rows: np.ndarray, owners: np.ndarray, kind: str) -> Row:
    import faiss

    before, start = resident('VmRSS'), time.perf_counter()
    index = faiss.index_factory(rows.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    if kind.startswith('HNSW'):
        index.hnsw.efConstruction, index.hnsw.efSearch = 80, 64
    index.add(rows)
    build = time.perf_counter() - start

    def search(queries: np.ndarray) -> np.ndarray:
        return owners[index.search(queries, CANDIDATES)[1][:, 0]]

    return Row(f'FAISS {kind}', search, build, resident('VmRSS') - before)


# ---- measurements


def enrolled(population: Population, figures: dict) -> FaceGallery:
    from mmhyperface.gallery import FaceGallery

    gallery = FaceGallery('benchmark', population.rows.shape[1])
    people = [str(owner) for owner in population.owners]
    images = [f'{owner}/{place}.jpg' for place, owner in enumerate(population.owners)]
    before, start = resident('VmRSS'), time.perf_counter()
    gallery.enrol_many(people, population.rows, images)
    figures['enrol'] = time.perf_counter() - start
    figures['resident'] = resident('VmRSS') - before
    return gallery


def stored(gallery: FaceGallery, folder: Path, figures: dict) -> None:
    from mmhyperface.gallery import FaceGallery

    path = folder / 'gallery.npz'
    start = time.perf_counter()
    gallery.save(path)
    figures['save'] = time.perf_counter() - start
    figures['file'] = path.stat().st_size / 1e6
    start = time.perf_counter()
    FaceGallery.load(path)
    figures['load'] = time.perf_counter() - start
    path.unlink()


def measure(
    rows: list[Row], queries: np.ndarray, repeats: int, clock: Callable[[], float]
) -> None:
    """Contenders in turns, each time with other queries."""
    for batch, share in BATCHES.items():
        taking_part = [row for row in rows if row.most >= batch]
        times: dict[str, list[float]] = {row.name: [] for row in taking_part}
        for turn in range(max(int(repeats * share), 1)):
            first = turn * batch % (len(queries) - batch + 1)
            part = queries[first : first + batch]
            for row in taking_part:
                start = clock()
                row.search(part)
                times[row.name].append(clock() - start)
        for row in taking_part:
            row.latency[batch] = float(np.median(times[row.name]))
    for row in rows:
        # Linux: the peak is that from now on.
        Path('/proc/self/clear_refs').write_text('5')
        before = resident('VmRSS')
        row.search(queries[: row.most])
        row.peak = resident('VmHWM') - before


def compare(rows: list[Row], population: Population) -> None:
    truth = {row.name: row for row in rows}['exact']
    sets = population.mates, population.strangers
    expected = [truth.search(queries) for queries in sets]
    for row in rows:
        if row.name not in (FLOOR, f'{FLOOR}, argsort', 'exact'):
            best = [row.search(queries) for queries in sets]
            mates, strangers = (
                float(np.mean(a == b)) for a, b in zip(best, expected, strict=True)
            )
            row.recall = mates, strangers


def table_of(args: argparse.Namespace, rows: list[Row], title: str) -> Table:
    table = new_table(args, '', title=title)
    headings = [f'{n} queries, ms' if n > 1 else '1 query, ms' for n in BATCHES]
    for name in (
        *headings,
        'of the floor (1 query)',
        'recall@1 mates',
        'strangers',
        'kept, MB',
        'peak, MB',
        'build, s',
    ):
        table.add_column(name, justify='right')
    floor = rows[0].latency[1]
    for row in rows:
        recall = row.recall or (None, None)
        table.add_row(
            row.name,
            *(_milliseconds(row.latency.get(batch)) for batch in BATCHES),
            f'{row.latency[1] / floor:.2f}',
            *('' if share is None else f'{share:.3f}' for share in recall),
            f'{row.kept:,.0f}',
            f'{row.peak:,.0f}',
            '' if row.build is None else f'{row.build:,.1f}',
        )
    return table


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return ''
    return f'{1e3 * seconds:,.{0 if seconds > 0.1 else 1}f}'


def main() -> None:
    args = parse_args()
    population = Population(args.size, args.dimensions, args.images, args.queries)
    figures: dict[str, Any] = {}
    gallery = enrolled(population, figures)
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        stored(gallery, Path(folder), figures)
    rows = [
        floor_of(population.rows),
        naive(population.rows, population.owners),
        ours(gallery, 'exact', population.mates[:1]),
    ]
    if importlib.util.find_spec('faiss'):
        rows.append(ours(gallery, 'faiss', population.mates[:1]))
        for name in args.others:
            rows.append(bare(population.rows, population.owners, OTHERS[name]))
    clock = time.process_time if args.processor_time else time.perf_counter
    measure(rows, population.mates, args.repeats, clock)
    compare(rows, population)
    threads = os.environ.get('OMP_NUM_THREADS', os.cpu_count())
    if args.processor_time:
        threads = '1, processor time'
    title = (
        f'{args.size:,} embeddings of {args.dimensions} values, '
        f'{args.images} of each person; {processor()}, threads: {threads}'
    )
    # As wide as it needs, wherever it goes.
    console = Console(width=200 if args.markdown else None)
    console.print(table_of(args, rows, title))
    console.print(
        f'enrol {figures["enrol"]:.1f} s, save {figures["save"]:.1f} s, load '
        f'{figures["load"]:.1f} s; in memory {figures["resident"]:,.0f} MB, file '
        f'{figures["file"]:,.0f} MB'
    )
    described = [{**asdict(row), 'search': None} for row in rows]
    write_json(args, {'title': title, **figures, 'rows': described})


if __name__ == '__main__':
    with report_errors():
        main()
