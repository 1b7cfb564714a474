"""Whole examinations at their real sizes, beside others and the bare arithmetic.

Features are drawn: a direction for each person, and noise. Parts:

- `ijb`: IJB-C's sizes: 469,375 images with their mirror images, 23,124 templates,
  15,658,489 pairs, two galleries and 19,593 probes; 1:1 and 1:N from features to
  figures. The floor is the arithmetic alone: weighted sums of the images of each
  template, one product of all templates in pairs and a gather from it, one partition
  for the thresholds, one product with each gallery with the own and the highest other
  score of each probe.
- `pairs`: 6,000 pairs in ten folds, from embeddings to accuracy and TAR@FAR.
- `megaface`: 3,530 probes of 80 people among a million distractors.

Each contender runs in a process of its own, on one thread, and is measured by processor
time, and by its peak memory with the inputs; ours and the floor alternate. With
``--peer-dir`` insightface and OpenSphere follow on the same features, and the figures
that differ are listed with whose convention they are.

    python tools/benchmarks/examination.py --peer-dir DIR
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from common import benchmark_parser, new_table, processor, resident, write_json
from rich.console import Console
from rich.table import Table

from mmhyperface.utils.errors import UserError

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
FPIRS = (0.01, 0.1)
PARTS = ('ijb', 'pairs', 'megaface')
Figures = dict[str, float]


def parse_args() -> argparse.Namespace:
    parser = benchmark_parser(__doc__)
    add = parser.add_argument
    add('--parts', nargs='+', choices=PARTS, default=list(PARTS))
    add('--scale', type=float, default=1.0, help='share of the real sizes')
    add('--dim', type=int, default=512)
    add('--repeats', type=int, default=3, help='of ours and of the floor')
    add('--peer-dir', type=Path, help='folder with insightface and opensphere')
    args = parser.parse_args()
    if not 0 < args.scale <= 1 or args.repeats < 1 or args.dim < 2:
        raise UserError('--scale lies in (0, 1], --repeats from 1 and --dim from 2 on')
    return args


# ---- what is examined


def ijb(scale: float, dim: int) -> SimpleNamespace:
    """Images, pairs and searches of the sizes of IJB-C."""
    rng = np.random.default_rng(0)
    gallery, probes = max(int(3_531 * scale), 20), max(int(19_593 * scale), 100)
    templates = gallery + probes
    images = max(int(469_375 * scale), 2 * templates)
    people = rng.standard_normal((gallery, dim), np.float32)
    # One template of each subject is enrolled; the others are probes.
    of = np.concatenate([np.arange(gallery), rng.integers(0, gallery, probes)])
    place = np.concatenate(
        [np.arange(templates), rng.integers(0, templates, images - templates)]
    )
    # Some templates are worse than others.
    blur = rng.exponential(2, (templates, 1)).astype(np.float32)
    centres = people[of] + blur * rng.standard_normal((templates, dim), np.float32)
    features, mirrored = np.empty((2, images, dim), np.float32)
    for start in range(0, images, 4096):
        part = slice(start, start + 4096)
        shape = (len(place[part]), dim)
        image = centres[place[part]] + 2 * rng.standard_normal(shape, np.float32)
        features[part] = image
        mirrored[part] = image + 0.5 * rng.standard_normal(shape, np.float32)
    ids = np.sort(rng.choice(10 * templates, templates, replace=False))
    pairs = int(15_658_489 * scale)
    a = rng.integers(0, gallery, pairs, np.int32)
    b = rng.integers(gallery, templates, pairs, np.int32)
    genuine = rng.choice(pairs, max(int(19_557 * scale), 10), replace=False)
    a[genuine] = of[b[genuine]]
    half = int(gallery * 1_772 / 3_531)
    return SimpleNamespace(
        features=features,
        mirrored=mirrored,
        template_ids=ids[place],
        media_ids=rng.integers(0, max(images // 3, 1), images),
        detector_scores=(0.5 + rng.random(images, np.float32) / 2),
        pairs=(ids[a].astype(np.int32), ids[b].astype(np.int32)),
        same=of[a] == of[b],
        probes=(ids[gallery:], of[gallery:]),
        galleries=[(ids[:half], of[:half]), (ids[half:gallery], of[half:gallery])],
        fars=FARS,
        size=f'{images:,} images, {templates:,} templates, {pairs:,} pairs, '
        f'{probes:,} probes',
    )


def pair_list(scale: float, dim: int) -> SimpleNamespace:
    """Embeddings of 6,000 pairs in ten folds, as insightface's packs lie."""
    rng = np.random.default_rng(0)
    pairs = max(int(6_000 * scale) // 20 * 20, 200)
    same = np.tile(np.repeat([True, False], pairs // 20), 10)
    first, second = rng.standard_normal((2, pairs, dim))
    second[same] = first[same]
    images = np.stack([first, second], axis=1).reshape(2 * pairs, dim)
    images += 3 * rng.standard_normal(images.shape)
    return SimpleNamespace(
        embeddings=images.astype(np.float32), same=same, size=f'{pairs:,} pairs'
    )


def megaface(scale: float, dim: int) -> SimpleNamespace:
    rng = np.random.default_rng(0)
    count, probes = max(int(1e6 * scale), 1_000), max(int(3_530 * scale), 40)
    of = np.arange(probes) % max(probes // 44, 2)
    people = rng.standard_normal((of.max() + 1, dim), np.float32)
    distractors = np.empty((count, dim), np.float32)
    for start in range(0, count, 4096):
        part = distractors[start : start + 4096]
        part[:] = rng.standard_normal(part.shape, np.float32)
    return SimpleNamespace(
        probes=people[of] + 1.5 * rng.standard_normal((probes, dim), np.float32),
        subjects=of,
        distractors=distractors,
        counts=[10**n for n in range(1, 7) if 10**n <= count],
        size=f'{probes:,} probes, {count:,} distractors',
    )


# ---- ours


def ours_ijb(data: SimpleNamespace, **convention: Any) -> Figures:
    from mmhyperface.evaluation import functional as F

    templates = F.pool_templates(
        data.features,
        data.template_ids,
        data.media_ids,
        data.detector_scores,
        data.mirrored,
    )
    scores = F.score_pairs(
        templates.features, *(F.template_rows(templates.ids, x) for x in data.pairs)
    )
    interpolation = convention.pop('interpolation', 'exact')
    tars = F.tar_at_far(scores, data.same, FARS, interpolation).tars
    searched, *enrolled = [
        (templates.features[F.template_rows(templates.ids, ids)], subjects)
        for ids, subjects in [data.probes, *data.galleries]
    ]
    identified = F.identify(*searched, enrolled, fpirs=FPIRS, **convention)
    named = (f'tar@far={far:.0e}' for far in FARS)
    return dict(zip(named, tars.tolist(), strict=True)) | identified.figures()


def ours_pairs(data: SimpleNamespace, grid: bool = False) -> Figures:
    from mmhyperface.evaluation import functional as F

    rows = np.arange(0, len(data.embeddings), 2)
    scores = F.score_pairs(data.embeddings, rows, rows + 1)
    limits = F.INSIGHTFACE_GRID if grid else None
    accuracy = F.kfold_accuracy(scores, data.same, 10, limits).mean
    F.tar_at_far(scores, data.same, 1e-3)
    return {'accuracy': accuracy}


def ours_megaface(data: SimpleNamespace) -> Figures:
    from mmhyperface.evaluation import functional as F

    return F.megaface_identification(
        data.probes, data.subjects, data.distractors, data.counts
    ).figures()


# ---- the arithmetic alone


def floor_ijb(data: SimpleNamespace) -> Figures:
    import torch
    from torch.nn.functional import embedding_bag

    ids, place = np.unique(data.template_ids, return_inverse=True)
    _, medium, count = np.unique(
        place * (int(data.media_ids.max()) + 1) + data.media_ids,
        return_inverse=True,
        return_counts=True,
    )
    order = np.argsort(place, kind='stable')
    starts = torch.from_numpy(np.searchsorted(place[order], np.arange(len(ids))))
    weights = (data.detector_scores / count[medium]).astype(np.float32)[order]
    summed = [
        embedding_bag(
            torch.from_numpy(order),
            torch.from_numpy(rows),
            starts,
            mode='sum',
            per_sample_weights=torch.from_numpy(weights),
        )
        for rows in (data.features, data.mirrored)
    ]
    templates = torch.nn.functional.normalize(summed[0] + summed[1]).numpy()
    table = np.zeros(int(ids[-1]) + 1, np.int32)
    table[ids] = np.arange(len(ids), dtype=np.int32)
    a, b = (table[x] for x in data.pairs)
    # Enrolled templates come before probes, so that their rows need no search.
    enrolled, first = int(a.max()) + 1, int(b.min())
    product = torch.from_numpy(templates[:enrolled] @ templates[first:].T).view(-1)
    entry = a * np.int32(len(ids) - first) + (b - np.int32(first))
    scores = product.index_select(0, torch.from_numpy(entry)).numpy()
    different = scores[~data.same]
    allowed = (np.array(FARS) * len(different)).astype(int)
    limits = np.partition(different, len(different) - 1 - allowed)
    limits = limits[len(different) - 1 - allowed]
    genuine = scores[data.same]
    figures = {
        f'tar@far={far:.0e}': float((genuine > limit).mean())
        for far, limit in zip(FARS, limits, strict=True)
    }
    del product, entry
    probes = templates[table[data.probes[0]]]
    for gallery_ids, subjects in data.galleries:
        similarity = probes @ templates[table[gallery_ids]].T
        column = np.searchsorted(subjects, data.probes[1]) % len(subjects)
        mated = np.flatnonzero(subjects[column] == data.probes[1])
        own = similarity[mated, column[mated]]
        similarity[mated, column[mated]] = -1
        others = similarity.max(1)
        free = np.delete(others, mated)
        allowed = (np.array(FPIRS) * len(free)).astype(int)
        limits = np.partition(free, len(free) - 1 - allowed)[len(free) - 1 - allowed]
        for limit in limits:
            np.mean((own > others[mated]) & (own > limit))
    return figures


def floor_pairs(data: SimpleNamespace) -> Figures:
    """A histogram of ten-thousandths for each fold, and cumulative sums."""
    a, b = data.embeddings[::2], data.embeddings[1::2]
    dots = np.einsum('ij,ij->i', a, b)
    lengths = np.einsum('ij,ij->i', a, a) * np.einsum('ij,ij->i', b, b)
    cell = ((dots / np.sqrt(lengths) + 1) * 5_000).astype(int)
    fold = np.arange(len(cell)) * 10 // len(cell)
    gain = np.bincount(fold * 10_001 + cell, np.where(data.same, 1, -1), 100_010)
    above = gain.reshape(10, -1)[:, ::-1].cumsum(1)
    best = np.argmax(above.sum(0) - above, axis=1)
    different = np.bincount(fold[~data.same], minlength=10)
    size = np.bincount(fold)
    return {'accuracy': float(((above[range(10), best] + different) / size).mean())}


# ---- measuring


def measured(
    examine: Callable[[Any], Figures], data: Any
) -> tuple[Figures, float, float]:
    """Figures, processor seconds and peak MB of a call in a process of its own."""
    import torch

    context = multiprocessing.get_context('fork')
    mine, theirs = context.Pipe(duplex=False)

    def call() -> None:
        torch.set_num_threads(1)
        getattr(examine, 'prepare', lambda _: None)(data)
        start = time.process_time()
        figures = examine(data)
        seconds = time.process_time() - start
        theirs.send((figures, seconds, resident('VmHWM')))

    child = context.Process(target=call)
    child.start()
    theirs.close()
    try:
        return mine.recv()
    except EOFError:
        raise UserError('a contender ended without an answer; see above') from None
    finally:
        child.join()


def run(
    data: SimpleNamespace, ways: dict[str, Callable], repeats: int
) -> dict[str, dict]:
    """Of each way its figures, the seconds of each turn and its peak memory."""
    results: dict[str, dict] = {
        name: dict(figures={}, seconds=[], megabytes=0.0) for name in ways
    }
    for turn in range(repeats):
        for name, examine in ways.items():
            if turn and name not in ('floor', 'mmhyperface'):
                continue
            entry = results[name]
            entry['figures'], seconds, peak = measured(examine, data)
            entry['seconds'].append(seconds)
            entry['megabytes'] = max(entry['megabytes'], peak)
    return results


def table_of(
    args: argparse.Namespace, part: str, size: str, results: dict[str, dict]
) -> Table:
    ours = np.median(results['mmhyperface']['seconds'])
    floor = results.get('floor')
    table = new_table(
        args,
        part,
        'CPU s',
        *(['/ floor'] if floor else []),
        '/ mmhyperface',
        'peak MB',
        title=size,
    )
    for name, entry in results.items():
        own = np.median(entry['seconds'])
        cells = [name, f'{own:.3g}']
        if floor:
            turns = min(len(entry['seconds']), len(floor['seconds']))
            ratio = np.divide(entry['seconds'][:turns], floor['seconds'][:turns])
            cells += [f'{np.median(ratio):.2f}']
        table.add_row(*cells, f'{own / ours:.3g}', f'{entry["megabytes"]:,.0f}')
    return table


def differences(
    args: argparse.Namespace, part: str, data: SimpleNamespace, results: dict[str, dict]
) -> Table:
    """Figures of ours, of ours by a peer's convention, and the peer's."""
    columns = 'peer', 'figure', 'ours', 'ours, its convention', 'its'
    table = new_table(args, *columns)
    used = (f'{name}: {words}' for name, (words, _) in CONVENTIONS[part].items())
    table.caption = '; '.join(used)
    for name, entry in results.items():
        if name not in CONVENTIONS[part]:
            continue
        options = CONVENTIONS[part][name][1]
        again = (ours_ijb if part == 'ijb' else ours_pairs)(data, **options)
        for figure, theirs in entry['figures'].items():
            ours = results['mmhyperface']['figures'][figure]
            cells = [f'{x:.6f}' for x in (ours, again[figure], theirs)]
            table.add_row(name, figure, *cells)
    return table


CONVENTIONS: dict[str, dict[str, tuple[str, dict]]] = {
    'ijb': {
        'insightface': (
            'TAR at the nearest FAR, threshold the max(⌊FPIR·n⌋, 1)-th highest',
            dict(interpolation='nearest', threshold='insightface'),
        ),
        'OpenSphere': (
            'linear interpolation; galleries merged',
            dict(interpolation='linear', merged=True),
        ),
    },
    'pairs': {
        'insightface': ('a grid of 400 distances', dict(grid=True)),
    },
    'megaface': {},
}


def contenders(part: str, peer_dir: Path | None) -> dict[str, Callable]:
    ways: dict[str, Callable] = {
        'ijb': {'floor': floor_ijb, 'mmhyperface': ours_ijb},
        'pairs': {'floor': floor_pairs, 'mmhyperface': ours_pairs},
        'megaface': {'mmhyperface': ours_megaface},
    }[part]
    if peer_dir is None or part == 'megaface':
        return ways
    import examination_peers as peers

    if part == 'pairs':
        return {**ways, 'insightface': peers.insightface_pairs(peer_dir)}
    return {
        **ways,
        'insightface': peers.insightface_ijb(peer_dir),
        'OpenSphere': peers.opensphere_ijb(peer_dir),
    }


def main() -> None:
    args = parse_args()

    import torch

    torch.set_num_threads(1)
    console = Console(width=120)
    made = {'ijb': ijb, 'pairs': pair_list, 'megaface': megaface}
    report: dict[str, Any] = dict(device=processor(), torch=torch.__version__)
    for part in args.parts:
        ways = contenders(part, args.peer_dir)
        data = made[part](args.scale, args.dim)
        repeats = args.repeats if part != 'megaface' else 1
        results = run(data, ways, repeats)
        console.print(table_of(args, part, data.size, results))
        if len(ways) > 2:
            console.print(differences(args, part, data, results))
        else:
            console.print(results['mmhyperface']['figures'])
        report[part] = dict(size=data.size, ways=results)
        del data
    if args.peer_dir:
        from examination_peers import SHIMS

        console.print(f'Shims: {SHIMS}')
    console.print(f'{report["device"]}, torch {report["torch"]}, one thread')
    write_json(args, report)


if __name__ == '__main__':
    # Without mmhyperface.apis, and mmengine with it, the memory is that of the task.
    try:
        main()
    except UserError as error:
        sys.exit(f'error: {error}')
