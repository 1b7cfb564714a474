"""Bytes that processes exchange in one step of the classifier: who pays for what.

SphereFace2's paper (arXiv 2108.01513) says that a loss without a softmax spares the
exchange of its statistics when the class centres are split over GPUs. This counts
every collective of torch.distributed in a forward and a backward of
``HypersphereHead`` behind one small layer, with the centres replicated under DDP and
split over the processes. The optimizer exchanges nothing, and is left out.

The payload of a call is what this rank puts into it; what it must send at the least
follows for a ring of W ranks: 2 (W - 1) / W of it for an all-reduce, W - 1 times for
an all-gather, (W - 1) / W for a reduce-scatter, once for a broadcast. The purpose of
a call is told from the shape of what it carries. gloo has no reduce-scatter: there
the gradient of the gathered features is an all-reduce, as long as W reduce-scatters.

    python tools/benchmarks/exchanged_bytes.py --processes 2 --classes 85742
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from common import benchmark_parser, new_table, options_of, run_in_processes, write_json
from rich.console import Console
from rich.table import Table

from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError

if TYPE_CHECKING:
    from mmpretrain.structures import DataSample
    from torch import Tensor, nn

    from mmhyperface.models import HypersphereHead

LOSSES = ('SphereFace2', 'SFace', 'ArcFace')
# Sent by each of W ranks on a ring, per byte of payload.
SENT: dict[str, Callable[[int], float]] = {
    'all_reduce': lambda world: 2 * (world - 1) / world,
    'all_gather': lambda world: world - 1,
    'all_gather_into_tensor': lambda world: world - 1,
    'reduce_scatter_tensor': lambda world: (world - 1) / world,
    'broadcast': lambda world: 1,
}


def parse_args() -> argparse.Namespace:
    parser = benchmark_parser(__doc__)
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--classes', type=int, default=85_742)
    parser.add_argument('--batch-size', type=int, default=64, help='per process')
    parser.add_argument('--dim', type=int, default=512)
    parser.add_argument(
        '--losses', nargs='+', default=LOSSES, help='names of losses without "Loss"'
    )
    args = parser.parse_args()
    if args.processes < 2:
        raise UserError('one process exchanges nothing: set --processes to 2 or more')
    return args


@dataclass(frozen=True)
class Call:
    """One collective of one rank."""

    collective: str
    purpose: str
    payload: int


@contextmanager
def recorded(
    purpose_of: Callable[[str, Tensor], str],
) -> Generator[list[Call], None, None]:
    """The collectives of torch.distributed that are called meanwhile.

    Args:
        purpose_of: Names the purpose of a collective from its name and its payload.
    """
    import torch

    calls: list[Call] = []

    def noting(name: str, original: Callable) -> Callable:
        def noted(*args: Any, **kwargs: Any) -> Any:
            # The result comes first where there is one: (output, input).
            payload = args[name.startswith(('all_gather', 'reduce_scatter'))]
            largest = torch.distributed.ReduceOp.MAX in (*args, *kwargs.values())
            purpose = purpose_of(f'{name} max' if largest else name, payload)
            calls.append(Call(name, purpose, payload.nbytes))
            return original(*args, **kwargs)

        return noted

    with ExitStack() as stack:
        for name in SENT:
            noted = noting(name, getattr(torch.distributed, name))
            stack.enter_context(mock.patch.object(torch.distributed, name, noted))
        yield calls


def classifier(head: HypersphereHead) -> nn.Module:
    """A layer, for DDP to have something to average, and the head."""

    from torch import nn

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, head.in_channels, bias=False)
            self.head = head

        def forward(self, x: Tensor, samples: list[DataSample]) -> Tensor:
            return self.head.loss((x + self.layer.weight.T,), samples)['loss']

    return Classifier()


def purpose(
    classes: int, dim: int, batch_size: int, world_size: int
) -> Callable[[str, Tensor], str]:
    """Tells what a payload is from its collective and its shape."""
    rows = (batch_size, batch_size * world_size)

    def purpose_of(collective: str, payload: Tensor) -> str:
        if payload.numel() >= classes * dim // world_size:
            return 'gradient of the centres'
        if payload.ndim == 2 and payload.shape[1] == dim and payload.shape[0] in rows:
            gathered = collective.startswith('all_gather')
            return 'features' if gathered else 'gradient of the features'
        if not payload.dtype.is_floating_point:
            return 'labels'
        if payload.ndim == 1 and payload.numel() >= dim:
            return "gradient of the layer and the loss's parameters"
        if payload.numel() < rows[0]:
            return "gradient of the loss's parameters"
        if collective.startswith('all_gather'):
            return 'norms'
        return 'maxima of samples' if collective.endswith('max') else 'sums of samples'

    return purpose_of


def work(args: argparse.Namespace, folder: str) -> None:
    """What one process does; rank 0 leaves its calls in the folder."""
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo')
    results = {}
    for loss in args.losses:
        for sharded in (False, True):
            calls = record(args, loss, sharded)
            name = 'split' if sharded else 'replicated'
            results[f'{loss}, {name}'] = [asdict(call) for call in calls]
    if torch.distributed.get_rank() == 0:
        Path(folder, 'calls.json').write_text(json.dumps(results))


def record(args: argparse.Namespace, loss: str, sharded: bool) -> list[Call]:
    import torch
    from mmpretrain.structures import DataSample
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    from mmhyperface.engine.distributed import FaceDistributedDataParallel
    from mmhyperface.models import HypersphereHead

    torch.manual_seed(0)
    head = HypersphereHead(
        args.classes, args.dim, dict(type=f'{loss}Loss'), sharded=sharded
    )
    model = FaceDistributedDataParallel(classifier(head))
    model.register_comm_hook(None, allreduce_hook)
    generator = torch.Generator().manual_seed(torch.distributed.get_rank())
    x = torch.randn(args.batch_size, args.dim, generator=generator)
    labels = torch.randint(args.classes, (args.batch_size,), generator=generator)
    samples = [DataSample().set_gt_label(int(label)) for label in labels]
    purpose_of = purpose(args.classes, args.dim, args.batch_size, args.processes)
    # DDP lays out its buckets anew after the first backward.
    for _ in range(2):
        model.zero_grad()
        with recorded(purpose_of) as calls:
            model(x, samples).backward()
    return calls


def table_of(args: argparse.Namespace, results: dict[str, list[dict]]) -> Table:
    table = new_table(
        args,
        'head',
        'collective',
        'for',
        'calls',
        'payload, bytes',
        'sent per rank, bytes',
        title=f'{args.classes:,} classes, D {args.dim}, {args.processes} processes, '
        f'batch {args.batch_size} on each: one forward and backward',
    )
    for name, calls in results.items():
        counts: Counter[tuple[str, str]] = Counter()
        payloads: Counter[tuple[str, str]] = Counter()
        for call in calls:
            key = call['collective'], call['purpose']
            counts[key] += 1
            payloads[key] += call['payload']
        sent = {key: payloads[key] * SENT[key[0]](args.processes) for key in payloads}
        for key in sorted(sent, key=sent.__getitem__, reverse=True):
            figures = (counts[key], payloads[key], round(sent[key]))
            table.add_row(name, *key, *(f'{figure:,}' for figure in figures))
        totals = counts.total(), payloads.total(), round(sum(sent.values()))
        cells = [f'{total:,}' for total in totals]
        table.add_row(name, 'all', '', *cells, end_section=True)
    return table


def main() -> None:
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_in_processes(args.processes, work, args, folder)
        results = json.loads(Path(folder, 'calls.json').read_text())
    console = Console(width=140)
    console.print(table_of(args, results))
    for loss in args.losses:
        replicated, split = (
            sum(call['payload'] for call in results[f'{loss}, {name}'])
            for name in ('replicated', 'split')
        )
        console.print(f'{loss}: split {replicated / split:.0f} times less')
    write_json(args, dict(options_of(args), calls=results))


if __name__ == '__main__':
    with report_errors():
        main()
