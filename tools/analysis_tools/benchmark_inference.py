"""Latency and throughput of a network, by batch size, on each engine that can run it.

    python tools/analysis_tools/benchmark_inference.py CHECKPOINT
    python tools/analysis_tools/benchmark_inference.py configs/sphereface2_r100_ms1m.py

A config alone is measured with weights of chance, to plan with. Engines:

- `eager`: PyTorch as it is.
- `compiled`: by ``torch.compile``; the time of compilation does not count.
- `onnxruntime`: the network's export, made here, or given by `--exported`.

All do the same work, from crops in 8 bits to the fused embedding, and what they give is
compared. They take turns, round by round, so that a busy machine slows all alike: each
runs twice in its turn, and the second run counts. The ratio is the median over the
rounds of eager's time by the other's in the same round.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.config import Config
from rich import box
from rich.console import Console
from rich.table import Table

from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.paths import require_file

if TYPE_CHECKING:
    import torch

    from mmhyperface.inference.backends import EmbeddingNetwork, TorchNetwork
    from mmhyperface.inference.complexity import Complexity
    from mmhyperface.models.recognizers import FaceRecognizer

BACKENDS = ('eager', 'compiled', 'onnxruntime')
#: A median of fewer tells nothing, whatever time they take.
FEWEST_ROUNDS = 3
#: Cosine distance above which two engines do not compute the same; half precision,
#: which an export may have, stays below.
SAME = 1e-2


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('model', help='checkpoint, or config for weights of chance')
    add('--config', help='of a checkpoint that does not tell its convention')
    add('--exported', type=Path, help='ONNX file of that network; else made here')
    add('--batch-sizes', type=int, nargs='+', default=[1, 8, 32], metavar='B')
    add('--backends', nargs='+', choices=BACKENDS, default=list(BACKENDS))
    add('--repeats', type=int, default=30, help='rounds at most (default: 30)')
    add(
        '--seconds',
        type=float,
        default=20.0,
        help='per batch size, after which no round begins (default: 20)',
    )
    add('--device', help='where to measure; by default a GPU if there is one')
    add('--threads', type=int, help='of each engine; by default as many as of torch')
    add('--out', type=Path, help='write the figures to this JSON file')
    args = parser.parse_args()
    least = min(
        *args.batch_sizes, args.repeats, 1 if args.threads is None else args.threads
    )
    if least < 1:
        raise UserError('--batch-sizes, --repeats and --threads must be at least 1')
    if args.exported and 'onnxruntime' not in args.backends:
        raise UserError('--exported is for the onnxruntime that --backends leaves out')
    if args.out:
        require_file(args.out)
    args.batch_sizes = list(dict.fromkeys(args.batch_sizes))
    # The first one is what others are compared with.
    args.backends = [name for name in BACKENDS if name in args.backends]
    return args


# ---- engines


def compiled_network(model: FaceRecognizer, source: str) -> TorchNetwork:
    """The network by ``torch.compile``, for batches of one size."""

    import torch

    from mmhyperface.inference.backends import TorchNetwork

    class CompiledNetwork(TorchNetwork):
        @torch.inference_mode()
        def _embed(self, crops: np.ndarray) -> np.ndarray:
            images = torch.from_numpy(crops).permute(0, 3, 1, 2)
            inputs = self.model.data_preprocessor({'inputs': images})['inputs']
            return self.compiled(inputs).cpu().numpy()

    network = CompiledNetwork(model, source)
    network.compiled = torch.compile(model.embed, dynamic=False)
    return network


@contextmanager
def exported_file(model: FaceRecognizer, given: Path | None) -> Iterator[Path]:
    """The given file, or one that is made and goes again."""
    if given is not None:
        yield given
        return
    from mmhyperface.deployment import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'exported.onnx'
        export_onnx(model, path, target='onnxruntime')
        yield path


def open_onnx(
    model: FaceRecognizer, args: argparse.Namespace, device: torch.device
) -> EmbeddingNetwork:
    from mmhyperface.inference.backends import OnnxNetwork

    with exported_file(model, args.exported) as path:
        network = OnnxNetwork(path, device, args.threads)
    wanted = model.convention
    if network.convention.fingerprint != wanted.fingerprint:
        raise UserError(
            f'{args.exported} is an export of other weights, preprocessing or flip '
            f'fusion than {args.model}'
        )
    if network.crop_size != wanted.input_size:
        raise UserError(
            f'{args.exported} takes crops of {network.crop_size} and reduces them, the '
            f'network takes {wanted.input_size}; give an export for onnxruntime'
        )
    return network


def open_networks(
    model: FaceRecognizer, args: argparse.Namespace
) -> tuple[dict[str, EmbeddingNetwork], dict[str, str]]:
    """The engines that are there, and why others are not."""
    from mmhyperface.inference.backends import TorchNetwork

    device = next(model.parameters()).device
    networks: dict[str, EmbeddingNetwork] = {}
    missing: dict[str, str] = {}
    for name in args.backends:
        try:
            if name == 'onnxruntime':
                networks[name] = open_onnx(model, args, device)
            else:
                kind = TorchNetwork if name == 'eager' else compiled_network
                networks[name] = kind(model, args.model)
        except UserError as error:
            if args.exported:
                raise
            missing[name] = error.brief
    return networks, missing


# ---- measuring


@dataclass(frozen=True)
class EngineSpeed:
    """An engine at one batch size.

    Attributes:
        backend: Its name.
        batch_size: Crops at once.
        median, p90: Seconds of a batch.
        rounds: Of how many batches.
        ratio: How many times as fast as the first engine.
        distance: Largest cosine distance of an embedding from the first engine's.
    """

    backend: str
    batch_size: int
    median: float
    p90: float
    rounds: int
    ratio: float
    distance: float

    @property
    def faces_per_second(self) -> float:
        return self.batch_size / self.median


def warmed_up(
    networks: Mapping[str, EmbeddingNetwork], crops: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What each engine gives, once it is ready, and why others are not."""
    import torch

    # Else a compiled function is compiled for any batch size after the second one.
    if 'compiled' in networks:
        torch.compiler.reset()
    embeddings, failed = {}, {}
    for name, network in networks.items():
        try:
            network.embed(crops)
            embeddings[name] = network.embed(crops)
        except Exception as error:  # a compiler has many ways to be missing
            if name != 'compiled':
                raise
            lines = str(error).strip().splitlines() or ['']
            failed[name] = f'{type(error).__name__}: {lines[0]}'
    return embeddings, failed


def take_turns(
    networks: Mapping[str, EmbeddingNetwork],
    crops: np.ndarray,
    repeats: int,
    seconds: float,
) -> dict[str, list[float]]:
    """Times of each engine, round by round."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    end = time.perf_counter() + seconds
    for turn in range(repeats):
        if turn >= FEWEST_ROUNDS and time.perf_counter() > end:
            break
        for name, network in networks.items():
            # The first run brings its weights back into the caches, and lets the
            # threads of the one before come to rest.
            network.embed(crops)
            start = time.perf_counter()
            network.embed(crops)
            times[name].append(time.perf_counter() - start)
    return times


def largest_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Cosine distance of two lists of embeddings, [B, D], the largest of B."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(np.max(1 - (first * second).sum(1) / norms))


def measure(
    networks: Mapping[str, EmbeddingNetwork],
    batch_size: int,
    size: tuple[int, int],
    args: argparse.Namespace,
) -> tuple[list[EngineSpeed], dict[str, str]]:
    """Speeds at one batch size, and why others are missing.

    Raises:
        UserError: If two engines do not give the same embeddings.
    """
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (batch_size, *size, 3), np.uint8)
    embeddings, failed = warmed_up(networks, crops)
    ready = {name: networks[name] for name in embeddings}
    if not ready:
        return [], failed
    first = next(iter(ready))
    distances = {
        name: largest_distance(embeddings[first], embeddings[name]) for name in ready
    }
    for name, distance in distances.items():
        if not distance <= SAME:
            raise UserError(
                f'{name} and {first} do not give the same embeddings: their cosine '
                f'distance is up to {distance:.2g}, above {SAME:g}'
            )
    times = take_turns(ready, crops, args.repeats, args.seconds)
    return [
        EngineSpeed(
            backend=name,
            batch_size=batch_size,
            median=statistics.median(own),
            p90=float(np.quantile(own, 0.9)),
            rounds=len(own),
            ratio=statistics.median(
                base / mine for base, mine in zip(times[first], own, strict=True)
            ),
            distance=distances[name],
        )
        for name, own in times.items()
    ], failed


# ---- telling


def place_of(device: torch.device, threads: int) -> str:
    """The device in words."""
    import torch

    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'{platform.machine()} processor, {threads} thread{"s" * (threads != 1)}'


def table_of(speeds: Sequence[EngineSpeed], place: str) -> Table:
    first = speeds[0].backend
    table = Table(
        'crops at once',
        'engine',
        'ms, median',
        'ms, p90',
        'faces / s',
        f'x {first}',
        'cosine distance',
        title=f'crops to embeddings, {place}',
        box=box.SIMPLE,
    )
    for column in table.columns:
        column.justify = 'left' if column.header == 'engine' else 'right'
    for speed in speeds:
        table.add_row(
            str(speed.batch_size),
            speed.backend,
            f'{1e3 * speed.median:.4g}',
            f'{1e3 * speed.p90:.4g}',
            f'{speed.faces_per_second:.4g}',
            f'{speed.ratio:.2f}',
            f'{max(speed.distance, 0):.0e}',
            end_section=speed.backend == speeds[-1].backend,
        )
    return table


def network_line(complexity: Complexity, flip_fusion: str) -> str:
    """Parameters and multiply-adds of the network, in words."""
    parts = [
        part for part in (complexity.backbone, complexity.neck) if part is not None
    ]
    parameters = sum(part.parameters for part in parts)
    macs = sum(part.macs for part in parts)
    runs = 1 if flip_fusion == 'none' else 2
    height, width = complexity.input_size
    mirror = 'with the mirror image' if runs == 2 else 'without a mirror image'
    return (
        f'Images of {height} x {width}; {parameters:,} parameters; '
        f'{runs * macs / 1e9:.4g} G multiply-adds ({2 * runs * macs / 1e9:.4g} GFLOPs) '
        f'per face, {mirror}.'
    )


def save(
    path: Path,
    args: argparse.Namespace,
    complexity: Complexity,
    speeds: Sequence[EngineSpeed],
    missing: Mapping[str, str],
    place: str,
) -> None:
    from mmhyperface.utils.atomic_files import new_files

    report: dict[str, Any] = {
        'model': args.model,
        'measured_on': place,
        'network': asdict(complexity),
        'speeds': [
            {**asdict(speed), 'faces_per_second': speed.faces_per_second}
            for speed in speeds
        ],
        'missing': dict(missing),
    }
    with new_files([str(path)], overwrite=True) as (file,):
        file.write(json.dumps(report, indent=1).encode() + b'\n')


def load(args: argparse.Namespace) -> FaceRecognizer:
    import torch

    from mmhyperface.apis import get_model

    if Path(args.model).suffix.lower() in ('.onnx', '.pt2'):
        raise UserError(
            f'{args.model} is an export: give the checkpoint, and this as --exported'
        )
    is_config = '::' in args.model or Path(args.model).suffix == '.py'
    if is_config and args.config:
        raise UserError(f'{args.model} is a config, and so is --config; give one')
    if is_config:
        torch.manual_seed(0)
        return with_own_statistics(get_model(args.model, None, args.device))
    return get_model(args.config, args.model, args.device)


def with_own_statistics(model: FaceRecognizer) -> FaceRecognizer:
    """A network of chance with the statistics of its own activations.

    Without them those of a deep one overflow.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None  # the mean of all batches, here of one
    device = next(model.parameters()).device
    images = 2 * torch.rand(4, 3, *model.convention.input_size, device=device) - 1
    with torch.no_grad():
        model.train().extract_feat(images)
    return model.eval()


def main() -> None:
    args = parse_args()

    import torch

    from mmhyperface.inference.complexity import complexity_of

    if args.threads:
        torch.set_num_threads(args.threads)
    # Each engine has its own idea of how many threads there should be.
    args.threads = torch.get_num_threads()
    model = load(args)
    convention = model.convention
    network = Config({'model': convention.network})
    complexity = complexity_of(network, convention.input_size)
    networks, missing = open_networks(model, args)
    speeds: list[EngineSpeed] = []
    for batch_size in args.batch_sizes:
        more, failed = measure(networks, batch_size, convention.input_size, args)
        speeds += more
        missing |= failed
        networks = {name: networks[name] for name in networks if name not in failed}
    console = Console(width=100)
    console.print(network_line(complexity, convention.flip_fusion), highlight=False)
    place = place_of(next(model.parameters()).device, args.threads)
    if speeds:
        console.print(table_of(speeds, place))
    for name, reason in missing.items():
        console.print(f'{name} is left out: {reason}', markup=False, highlight=False)
    if not speeds:
        raise UserError('none of the engines can run')
    if args.out:
        save(args.out, args, complexity, speeds, missing, place)


if __name__ == '__main__':
    with report_errors():
        main()
