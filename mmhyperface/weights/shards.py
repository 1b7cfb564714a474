"""Class centres in one file per process, as insightface and CVLface save them."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmhyperface.utils.errors import UserError

# Of each, the revision of insightface that wrote it first, or the program.
_NAMES = (
    r'rank[:_](\d+)_softmax_weight\.pt',  # March 2021; the colon until July
    r'softmax_fc_gpu_(\d+)\.pt',  # January 2022
    r'checkpoint_gpu_(\d+)\.pt',  # May 2022
    r'classifier_rank(\d+)\.pt',  # CVLface
)


def find_shards(path: str) -> list[Path]:
    """The files of all processes, in the order of their ranks.

    Args:
        path: A folder, one of the files, or a file of another name, which is taken for
            all.

    Raises:
        UserError: If there is none, one is missing, or there are two kinds.
    """
    place = Path(path).expanduser()
    if place.is_file():
        names = [name for name in _NAMES if re.fullmatch(name, place.name)]
        if not names:
            return [place]
        folder = place.parent
    elif place.is_dir():
        names, folder = list(_NAMES), place
    else:
        raise UserError(f'there is no file or folder {path}')
    kinds = {name: _ranked(folder, name) for name in names}
    kinds = {name: files for name, files in kinds.items() if files}
    if not kinds:
        raise UserError(
            f'{path} has no class centres: no file is called softmax_fc_gpu_0.pt, '
            'rank_0_softmax_weight.pt, checkpoint_gpu_0.pt or classifier_rank0.pt'
        )
    if len(kinds) > 1:
        shown = ' and '.join(those[min(those)].name for those in kinds.values())
        raise UserError(f'{path} has class centres twice, {shown}; name one of them')
    (files,) = kinds.values()
    missing = sorted(set(range(max(files) + 1)) - set(files))
    if missing:
        shown = files[max(files)].name
        raise UserError(
            f'{folder} has no class centres of rank {", ".join(map(str, missing))}, '
            f'but {shown}; copy the files of all processes there'
        )
    return [files[rank] for rank in sorted(files)]


def _ranked(folder: Path, name: str) -> dict[int, Path]:
    files: dict[int, Path] = {}
    for file in sorted(folder.iterdir()):
        match = re.fullmatch(name, file.name)
        if match:
            rank = int(match[1])
            if rank in files:
                raise UserError(
                    f'{files[rank]} and {file} are both of rank {rank}; remove one'
                )
            files[rank] = file
    return files


def merged(parts: Sequence[Tensor]) -> Tensor:
    """All rows [C, D], in the order of the ranks.

    Raises:
        UserError: If the parts are not those of one matrix as the peers split it: each
            as large as the first, or from some rank on by one row less.
    """
    for rank, part in enumerate(parts):
        if part.ndim != 2 or part.shape[1] != parts[0].shape[-1]:
            raise UserError(
                f'the class centres of rank {rank} have the shape {list(part.shape)}, '
                f'those of rank 0 {list(parts[0].shape)}; they are of different runs'
            )
    sizes = [len(part) for part in parts]
    wanted = split_sizes(sum(sizes), len(parts))
    for rank, (size, expected) in enumerate(zip(sizes, wanted, strict=True)):
        if size != expected:
            raise UserError(
                f'rank {rank} has {size} class centres, where {sum(sizes)} on '
                f'{len(parts)} processes make {expected}; the files are of different '
                'runs, or some are missing'
            )
    return torch.cat(list(parts))


def split_sizes(rows: int, world_size: int) -> list[int]:
    """How many rows each rank has: the first ranks one more, if it does not divide."""
    return [
        rows // world_size + (rank < rows % world_size) for rank in range(world_size)
    ]


def require_count(count: int, num_classes: int | None) -> None:
    """Raise ``UserError`` if another number of classes is given."""
    if num_classes is not None and count != num_classes:
        raise UserError(
            f'there are {count} class centres instead of {num_classes}; files of '
            'processes are missing, or the number is another'
        )
