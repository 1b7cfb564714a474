"""Doing the runs of a study: what is missing, several at once."""

import json
import os
import pprint
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

import mmhyperface
from mmhyperface.engine.config_changes import changes, entries, lines_of
from mmhyperface.engine.divergence import ADVICE
from mmhyperface.utils.atomic_files import new_files
from mmhyperface.utils.errors import UserError, some

from .grid import Run

try:
    import fcntl
except ImportError:  # without locks two tools must not do one study
    fcntl = None  # type: ignore[assignment]

TOOLS = (Path(mmhyperface.__file__).parent / '.mim' / 'tools').resolve()
# In a folder of its own, for mmengine puts a copy as it trains into the work dir.
CONFIG = 'begun/config.py'
FAILED, LOCK, STDERR = 'failed.json', '.lock', 'stderr.txt'
VERIFICATION, TEST = 'verification.json', 'test.json'
# Seconds between two looks at the processes, and at what they have logged.
LOOK, PROGRESS = 0.3, 5.0
LONGEST = 500  # characters of a failure


@dataclass(frozen=True)
class Outcome:
    """How a run has ended.

    Attributes:
        failure: What went wrong; empty if nothing did.
        diverged: Whether it was the training, as ``DivergenceGuardHook`` found.
    """

    failure: str = ''
    diverged: bool = False


def outcome_of(run: Run) -> Outcome | None:
    """How a run has ended; None if it has not.

    Raises:
        UserError: If it was begun with another config.
    """
    with suppress(FileNotFoundError):
        before = entries((run.folder / CONFIG).read_text(encoding='utf-8'))
        changed = lines_of(changes(before, entries(_text(run))))
        if changed:
            raise UserError(
                f'{run.folder} was begun with another config ({some(changed)}): set '
                'it back, remove that folder to do the run anew, or name another '
                '--work-dir'
            )
    return _ending(run)


def perform(
    runs: Sequence[Run],
    console: Console,
    gpus: int = 0,
    workers: int = 1,
    minutes: float | None = None,
    retry: bool = False,
) -> None:
    """Do the runs that have not ended, in their order.

    Each is a process of ``tools/train.py``, or of ``tools/dist_train.sh``, in its
    folder. One that was killed goes on from its last checkpoint; one that another
    process is doing is waited for.

    Args:
        console: Shows progress, and how each run has ended.
        gpus: Processes of a run; 0: one, without torchrun.
        workers: Runs at once.
        minutes: After which none is begun.
        retry: Do those again that have failed.

    Raises:
        UserError: If one was begun with another config.
    """
    outcomes = {run.folder: outcome_of(run) for run in runs}
    waiting = []
    for run in runs:
        outcome = outcomes[run.folder]
        if outcome and outcome.failure and retry:
            (run.folder / FAILED).unlink(missing_ok=True)
        elif outcome:
            continue
        waiting.append(run)
    ends = float('inf') if minutes is None else time.monotonic() + 60 * minutes
    free, active = list(range(workers)), list[_Process]()
    columns = (BarColumn(), MofNCompleteColumn(), 'runs, left:', TimeRemainingColumn())
    with Progress(*columns, console=console, speed_estimate_period=3600) as progress:
        task = progress.add_task('', total=len(waiting))
        ended, looked = 0, 0.0
        try:
            while active or (waiting and time.monotonic() < ends):
                for run in list(waiting):
                    if not free or time.monotonic() >= ends:
                        break
                    lock = _lock(run)
                    if lock is None:
                        continue  # until whoever does it has ended
                    waiting.remove(run)
                    if _ending(run):
                        os.close(lock)
                        ended += 1
                        continue
                    active.append(_Process(run, lock, free.pop(0), gpus, workers))
                time.sleep(LOOK)
                for process in list(active):
                    told = process.look()
                    if told is not None:
                        active.remove(process)
                        free.append(process.slot)
                        ended += 1
                        console.print(f'{process.run.name}: {told}', markup=False)
                if time.monotonic() > looked + PROGRESS or not active:
                    looked = time.monotonic()
                    shares = sum(_share_done(process.run) for process in active)
                    progress.update(task, completed=ended + shares)
        finally:
            for process in active:
                process.stop()


class _Process:
    """A run that is being done: the training, then its tests.

    The lock of its folder is inherited by what it starts, and so lasts as long as
    that, also if this process is killed.
    """

    def __init__(self, run: Run, lock: int, slot: int, gpus: int, workers: int) -> None:
        self.run, self.lock, self.slot = run, lock, slot
        self.processes = gpus if run.processes is None else run.processes
        # One thread each, and GPUs of its own.
        self.environment = {'OMP_NUM_THREADS': '1', **os.environ}
        if workers > 1 and self.processes:
            visible = os.environ.get('CUDA_VISIBLE_DEVICES')
            devices = visible.split(',') if visible else list(map(str, range(999)))
            first = slot * self.processes
            devices = devices[first : first + self.processes]
            self.environment['CUDA_VISIBLE_DEVICES'] = ','.join(devices)
        if not (run.folder / CONFIG).exists():
            _write(run.folder / CONFIG, _text(run))
        self._start()

    def _start(self) -> None:
        run, script, self.expected = self.run, 'train', VERIFICATION
        arguments: list[str | Path] = [run.folder / CONFIG]
        options: list[str | Path] = ['--work-dir', run.folder]
        checkpoint = None
        with suppress(FileNotFoundError):
            last = (run.folder / 'last_checkpoint').read_text()
            checkpoint = run.folder / Path(last.strip()).name
        if _exists(run, VERIFICATION):
            script, self.expected = 'test', TEST
            arguments.append(checkpoint or '')
            options += ['--out', run.folder / TEST, '--test-sets', *run.test_sets]
        elif checkpoint:
            # Without one the config's load_from is in force.
            options += ['--resume', checkpoint]
        command: list[str | Path] = [sys.executable, TOOLS / f'{script}.py', *arguments]
        if self.processes:
            command = ['bash', TOOLS / f'dist_{script}.sh', *arguments]
            command.append(str(self.processes))
        with open(run.folder / STDERR, 'wb') as stderr:
            self.process = subprocess.Popen(
                [*command, *options],
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=self.environment,
                pass_fds=(self.lock,),
            )

    def look(self) -> str | None:
        """None while it runs, then how it has ended, of which a failure is kept."""
        status = self.process.poll()
        if status is None:
            return None
        if status == 0 and _exists(self.run, self.expected):
            if not _ending(self.run):
                self._start()
                return None
            told = 'done'
        elif status < 0 or status >= 128:  # by a signal
            told = 'was killed; give the command again to go on'
        else:
            outcome = _failure(self.run, self.expected, status)
            _write(self.run.folder / FAILED, json.dumps(asdict(outcome)))
            told = f'{"diverged" if outcome.diverged else "failed"}: {outcome.failure}'
        os.close(self.lock)
        return told

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        os.close(self.lock)


def _ending(run: Run) -> Outcome | None:
    if _exists(run, VERIFICATION) and (not run.test_sets or _exists(run, TEST)):
        return Outcome()
    if _exists(run, FAILED):
        return Outcome(**json.loads((run.folder / FAILED).read_text()))
    return None


def _failure(run: Run, expected: str, status: int) -> Outcome:
    """What the last message of a process says, which a status has ended."""
    if status == 0:
        return Outcome(
            f'it left no {expected}: the config must verify at the end (train_cfg.'
            'val_interval, val_evaluator, default_hooks.report)'
        )
    text = (run.folder / STDERR).read_text(encoding='utf-8', errors='replace')
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith('error')]
    message = (errors or lines or ['it said nothing'])[-1].removeprefix('error: ')
    diverged = ADVICE in message
    message = message.partition(ADVICE)[0].strip()
    if not errors:
        message = f'status {status}: {message}'
    return Outcome(message[:LONGEST], diverged)


def _share_done(run: Run) -> float:
    """Of a run that is being done, by its log; of epochs, by its last checkpoint."""
    train = run.config.get('train_cfg') or {}
    if train.get('max_iters'):
        return max(logged(run), default=0) / train['max_iters']
    with suppress(FileNotFoundError, ValueError, KeyError):
        saved = Path((run.folder / 'last_checkpoint').read_text()).stem
        return int(saved.removeprefix('epoch_')) / train['max_epochs']
    return 0.0


def logged(run: Run) -> dict[int, dict[str, Any]]:
    """What a training has logged, by iteration, also if it was resumed."""
    lines: dict[int, dict[str, Any]] = {}
    for file in sorted(run.folder.glob('*/vis_data/scalars.json')):
        for text in file.read_text(encoding='utf-8').splitlines():
            with suppress(json.JSONDecodeError):  # cut off, when it was killed
                line = json.loads(text)
                # Validations have times, too, and may count epochs.
                if 'iter' in line or 'time' not in line:
                    lines.setdefault(line['step'], {}).update(line)
    return lines


def _text(run: Run) -> str:
    """The config of a run, for a file: as it is, and quick to write."""
    content = run.config.to_dict().items()
    return ''.join(
        f'{key} = {pprint.pformat(value, width=88, sort_dicts=False)}\n'
        for key, value in content
    )


def _write(path: Path, text: str) -> None:
    with new_files([str(path)], overwrite=True) as (file,):
        file.write(text.encode())


def _exists(run: Run, name: str) -> bool:
    return (run.folder / name).is_file()


def _lock(run: Run) -> int | None:
    """The descriptor of a run's lock; None if another process has it."""
    run.folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(run.folder / LOCK, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
