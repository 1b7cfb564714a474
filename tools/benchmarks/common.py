"""What the benchmarks have in common: options, tables, processes and their memory."""

import argparse
import json
import os
import platform
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mmhyperface.utils.atomic_files import new_files
from mmhyperface.utils.errors import UserError


def benchmark_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--json', type=Path, help='write all figures to this file')
    parser.add_argument(
        '--markdown', action='store_true', help='print tables as Markdown'
    )
    return parser


def new_table(args: argparse.Namespace, *columns: str, **options: Any) -> Table:
    """A table of the kind that was asked for."""
    return Table(*columns, box=box.MARKDOWN if args.markdown else box.SIMPLE, **options)


def write_json(args: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Write the figures to the file that was asked for, all of them or none."""
    if args.json:
        with new_files([str(args.json)], overwrite=True) as (file,):
            file.write(json.dumps(figures, indent=1).encode())


def conclude(
    console: Console, args: argparse.Namespace, settings: dict[str, Any], **figures: Any
) -> None:
    """Print what the figures depend on, and write both to the file asked for."""
    console.print(', '.join(f'{key} {value}' for key, value in settings.items()))
    write_json(args, settings | figures)


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """What was measured, for the file."""
    return {key: value for key, value in vars(args).items() if key != 'json'}


def _process(rank: int, world: int, port: int, task: Callable, args: tuple) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )
    # Not above: who only measures need not have all of mmengine in memory.
    from mmhyperface.utils.command_line import report_errors

    with report_errors():
        task(*args)


def run_in_processes(world: int, task: Callable, *args: Any) -> None:
    """Call ``task(*args)`` in ``world`` fresh processes, their ranks in ``RANK``.

    A ``UserError`` in one of them ends the script with its message.
    """
    import torch
    from torch.multiprocessing import ProcessExitedException

    with socket.socket() as held:
        # Nobody else is given the port; rank 0 can listen there, as this does not.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(('127.0.0.1', 0))
        given = world, held.getsockname()[1], task, args
        try:
            torch.multiprocessing.spawn(_process, given, nprocs=world)
        except ProcessExitedException as error:
            # Status 1 comes with a message; a signal, such as that of a machine out of
            # memory, does not.
            if error.exit_code != 1:
                raise
            sys.exit(1)


def resident(which: str, pid: int | str = 'self') -> float:
    """Resident MB of a process: ``VmRSS`` now, ``VmHWM`` at its peak.

    Raises:
        UserError: If the system is not Linux.
    """
    return _megabytes(Path(f'/proc/{pid}/status'), which)


def proportional(pid: int | str = 'self') -> float:
    """MB of a process, pages that several share counted in equal parts (Pss).

    Raises:
        UserError: If the system is not Linux.
    """
    return _megabytes(Path(f'/proc/{pid}/smaps_rollup'), 'Pss')


def _megabytes(file: Path, field: str) -> float:
    if not file.exists():
        raise UserError('memory is measured on Linux only: there is no /proc')
    kilobytes = re.search(rf'^{field}:\s+(\d+)', file.read_text(), re.M)[1]
    return int(kilobytes) * 1024 / 1e6


def peer_file(folder: Path, file: str) -> Path:
    """A file below the checkout of another project.

    Raises:
        UserError: If there is none.
    """
    if files := sorted(folder.rglob(file)):
        return files[0]
    raise UserError(f'there is no {file} below {folder}; clone the repository there')


def processor() -> str:
    """The name of the processor."""
    cpuinfo = Path('/proc/cpuinfo')
    known = re.search(
        r'^model name\s*:\s*(.+)', cpuinfo.read_text() if cpuinfo.exists() else '', re.M
    )
    return known[1] if known else platform.processor()
