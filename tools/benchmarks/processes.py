"""Processes of a benchmark that know of one another, their memory and processor."""

import os
import platform
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmhyperface.utils.errors import UserError


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

    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    try:
        torch.multiprocessing.spawn(_process, (world, port, task, args), nprocs=world)
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


def processor() -> str:
    """The name of the processor."""
    cpuinfo = Path('/proc/cpuinfo')
    known = re.search(
        r'^model name\s*:\s*(.+)', cpuinfo.read_text() if cpuinfo.exists() else '', re.M
    )
    return known[1] if known else platform.processor()
