"""What the converters of weights have in common: arguments, messages, new files."""

import argparse
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmhyperface.utils.errors import UserError
from mmhyperface.utils.paths import require_file, require_folder

if TYPE_CHECKING:
    from .network import Network


def to_ours_parser(description: str | None, source: str) -> argparse.ArgumentParser:
    """A parser with the arguments that all ``*_to_mmhyperface`` share."""
    parser = _parser(description)
    parser.add_argument('source', help=source)
    parser.add_argument('destination', help='the checkpoint to write, NAME.pth')
    return parser


def from_ours_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments that all ``mmhyperface_to_*`` share."""
    parser = _parser(description)
    parser.add_argument('checkpoint', help='our checkpoint, a file or a folder')
    parser.add_argument('destination', help='the folder to write the files into')
    parser.add_argument(
        '--drop-head', action='store_true', help='leave the class centres out'
    )
    return parser


def add_shards_argument(parser: argparse.ArgumentParser, names: str) -> None:
    """The class centres in one file per process."""
    parser.add_argument(
        '--classifier',
        metavar='PATH',
        help=f'the class centres: a folder of {names}, or one of these files, of all '
        'processes in any case',
    )
    parser.add_argument(
        '--num-classes',
        type=int,
        metavar='C',
        help='how many identities the data set has, to notice missing files',
    )


def add_world_size_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--world-size',
        type=_positive,
        default=1,
        metavar='N',
        help='split the class centres for so many processes; default 1',
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError('it must be at least 1')
    return number


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace files that are there'
    )
    return parser


@contextmanager
def told_with(path: str | Path) -> Generator[None, None, None]:
    """Let errors begin with the file that they are about."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{path}: {error}') from None


def write_checkpoint(
    network: 'Network', peer: str, files: Iterable[str | Path], args: argparse.Namespace
) -> None:
    """Write our checkpoint of a network and tell what it is."""
    from .network import to_checkpoint

    names = [Path(file).name for file in files]
    checkpoint = to_checkpoint(network, peer, names)
    save({args.destination: checkpoint}, args.overwrite)
    print(f'{args.destination}: {network}')
    print('model.backbone:', network.config)


def read_ours(
    args: argparse.Namespace, variant: str | None = None
) -> 'tuple[Network, dict]':
    """The network of our checkpoint and what else it tells, its ``meta``.

    Args:
        args: Of :func:`from_ours_parser`.
        variant: See :func:`.network.from_checkpoint`.
    """
    from .network import from_checkpoint, read_checkpoint
    from .state_dicts import without_head

    require_folder(args.destination)
    with told_with(args.checkpoint):
        checkpoint = read_checkpoint(args.checkpoint)
        if args.drop_head:
            checkpoint['state_dict'] = without_head(checkpoint['state_dict'])
        network = from_checkpoint(checkpoint, variant)
    meta = checkpoint.get('meta')
    return network, meta if isinstance(meta, dict) else {}


def write_files(
    network: 'Network', files: dict[str, Any], args: argparse.Namespace
) -> None:
    """Write a peer's files of a network and tell what it is."""
    paths = {str(Path(args.destination, name)): value for name, value in files.items()}
    save(paths, args.overwrite)
    print(f'{args.destination}: {network}')
    for name in files:
        print(f'  {name}')


def save(contents: dict[str, Any], overwrite: bool) -> None:
    """``torch.save`` of each content under its name; all of them, or none.

    Raises:
        UserError: If one cannot be written, or is there already.
    """
    import torch

    from mmhyperface.utils.atomic_files import new_files

    from .state_dicts import own, replace_tensors

    for path in contents:
        require_file(path)
    with new_files(list(contents), overwrite) as files:
        for file, content in zip(files, contents.values(), strict=True):
            torch.save(replace_tensors(content, own), file)
