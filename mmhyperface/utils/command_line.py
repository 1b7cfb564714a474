"""What the command line tools have in common, free of torch and of the engine."""

import argparse
import ast
import difflib
import gc
import inspect
import os
import pickle
import re
import signal
import sys
import time
import traceback
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any, NoReturn

from mmengine.config import Config, DictAction

from .errors import UserError, interrupted, of_the_disk, unwritable

# Functions of mmengine that make something of an entry of a config.
_BUILDERS = {'build_from_cfg', 'build_train_loop', 'build_dataloader'}
# The exit status after Ctrl-C, as shells have it.
INTERRUPTED = 128 + signal.SIGINT


@contextmanager
def report_errors() -> Generator[None, None, None]:
    """Print a ``UserError`` as one message, without a traceback; exit status 1.

    So it is with a disk that is full or read-only, and with Ctrl-C, exit status 130.
    """
    try:
        yield
        if 'torch' in sys.modules:
            end_process_group()
    except (Exception, KeyboardInterrupt) as error:
        if interrupted(error):
            _end_interrupted(error)
        message = _message_of(error)
        rank = int(os.environ.get('RANK', 0))
        if message is None:
            if 'gloo' in str(error) or 'NCCL' in str(error):
                # Another process has died. The launcher ends this one, and says so.
                time.sleep(10)
            raise
        if rank:
            # A mistake that all processes meet is reported by the first, whose end
            # makes the launcher stop the others, on a busy machine not at once; this
            # one may be ours alone.
            time.sleep(10)
        where = f' (process {rank})' if rank else ''
        print(f'error{where}: {message}', file=sys.stderr, flush=True)
        sys.exit(1)


def _end_interrupted(error: BaseException) -> NoReturn:
    """Say in one line where a command was interrupted, if it is known, and exit."""
    # One is enough: whoever presses again, or a launcher that passes it on, does
    # not want to read where this one was.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not int(os.environ.get('RANK', 0)):
        where = error if isinstance(error, KeyboardInterrupt) else ''
        print('\n' + f'interrupted {where}'.strip(), file=sys.stderr, flush=True)
    sys.exit(INTERRUPTED)


def _message_of(error: BaseException) -> str | None:
    """What to say of an error that is not the program's; None if it may be."""
    if isinstance(error, UserError):
        return _with_place(error.brief, error)
    if isinstance(error, pickle.UnpicklingError):
        return (
            f'a checkpoint cannot be loaded, for it is none or holds more than '
            f'weights: {str(error).splitlines()[0]}'
        )
    if isinstance(error, PermissionError) and error.filename:
        return f'{error.filename}: {error.strerror}'
    if isinstance(error, OSError) and of_the_disk(error):
        return str(unwritable(error.filename or 'a file', error))
    if isinstance(error, TypeError | KeyError) and error.args:
        mistake = _mistake_in_config(error)
        return mistake and _with_place(mistake, error)
    return None


def _with_place(message: str, error: BaseException) -> str:
    """A message that says in which entry of the config the error is, if in one."""
    frames: list[Any] = []
    cause: BaseException | None = error
    while cause is not None:
        frames += [frame for frame, _ in traceback.walk_tb(cause.__traceback__)]
        cause = cause.__cause__
    configs = [x for f in frames for x in f.f_locals.values() if isinstance(x, Config)]
    entries = [
        frame.f_locals.get('cfg')
        for frame in frames
        if frame.f_code.co_name == 'build_from_cfg'
    ]
    if not configs or not entries or not isinstance(entries[-1], dict):
        return message
    places = _places(configs[0]._cfg_dict, entries[-1])
    if not places or any(
        re.search(rf'\b{re.escape(place)}\b(?!=)', message) for place in places
    ):
        return message
    return f'{message} (in {" and ".join(places)})'


def _places(node: Any, entry: Any, place: str = '') -> list[str]:
    """Where below `node` an entry is, to which its builder may have added some."""
    if (
        place
        and isinstance(node, dict)
        and 'type' in node
        and all(name in entry and entry[name] == x for name, x in node.items())
    ):
        return [place]
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, dict):
        children = node.items()
    elif isinstance(node, list | tuple):
        children = enumerate(node)
    return [
        below
        for name, child in children
        for below in _places(child, entry, f'{place}.{name}' if place else str(name))
    ]


def _mistake_in_config(error: Exception) -> str | None:
    """What an error says of an entry of the config that cannot be built, if it does.

    Either there is no such type, or its constructor has no such option or lacks one.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    built = [i for i, f in enumerate(frames) if f.f_code.co_name in _BUILDERS]
    if not built or any(
        frame.f_code.co_name not in ('__init__', '<listcomp>')
        for frame in frames[built[-1] + 1 :]
    ):
        return None
    builder = frames[built[-1]].f_locals
    message = str(error.args[0])
    if isinstance(error, KeyError):
        if 'type' not in builder.get('cfg', ('type',)):
            return f'an entry of the config has no type: {builder["cfg"]}'
        name, mark, _ = message.partition(' registry. ')
        if not mark:
            return None
        return (
            f'{name} registry: is the type misspelt in the config? A module of your '
            "own is imported by custom_imports=dict(imports=['MODULE'])"
        )
    option = re.search(
        r"(\w+)\.__init__\(\) (got|missing) .*arguments?:? '(\w+)'", message
    )
    if option is None:
        return None
    kind = builder.get('obj_cls')
    name = str(getattr(kind, '__name__', option[1]))
    if option[2] == 'missing':
        return f'{name} needs {option[3]}=..., which the config does not set'
    known: set[str] = set()
    # A backbone hands what it does not know to its base.
    for cls in getattr(kind, '__mro__', (kind,) if kind else ()):
        known |= set(inspect.signature(cls).parameters)
    similar = difflib.get_close_matches(option[3], known, n=1)
    advice = f': is {similar[0]} meant?' if similar else ''
    return f'{name} has no option {option[3]}{advice}'


def end_process_group() -> None:
    """Leave the process group before the process ends.

    gloo's threads may else outlive the interpreter and abort the process after its
    work is done. torch 2.1 can hang here, and is left alone.
    """
    import torch
    from mmengine.dist import is_distributed
    from mmengine.utils import digit_version

    if is_distributed() and digit_version(torch.__version__) >= digit_version('2.2'):
        # The model in DDP holds the group, and its runner is a cycle of references.
        gc.collect()
        torch.distributed.destroy_process_group()


class Overrides(DictAction):
    """mmengine's ``DictAction``, with values such as ``dict(type='A', b=[1])``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for value in values:
            if '=' not in value:
                parser.error(f'{option_string} takes KEY=VALUE, got {value}')
            key, text = value.split('=', 1)
            try:
                if re.match(r'[\s(\[]*(dict\(|{)', text):
                    options = dict(getattr(namespace, self.dest, None) or {})
                    tree = _AsLiteral().visit(ast.parse(text.strip(), mode='eval'))
                    options[key] = ast.literal_eval(tree)
                    setattr(namespace, self.dest, options)
                else:
                    super().__call__(parser, namespace, [value], option_string)
            except AssertionError as error:  # of brackets
                parser.error(f'{option_string} {value}: {error}')
            except (SyntaxError, ValueError, TypeError, RecursionError):
                parser.error(
                    f'{option_string} {value}: {text} is no value; it takes numbers, '
                    "text, [x,y], (x,y) and dict(type='NAME', option=1)"
                )


class _AsLiteral(ast.NodeTransformer):
    """Makes ``dict(a=1)`` a literal, and names texts, for shells take quotes away."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        is_dict = isinstance(node.func, ast.Name) and node.func.id == 'dict'
        self.generic_visit(node)
        if not is_dict or node.args or any(x.arg is None for x in node.keywords):
            return node
        names: list[ast.expr | None] = [ast.Constant(x.arg) for x in node.keywords]
        return ast.Dict(names, [x.value for x in node.keywords])

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant({'true': True, 'false': False}.get(node.id, node.id))

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return ast.Constant(ast.unparse(node))


def add_overrides(parser: argparse.ArgumentParser, of: str = 'the config') -> None:
    """The option ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Overrides,
        help=f'override entries of {of}: a.b=1 c.d=[x,y]',
    )


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments that OpenMMLab's tools share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='path of the config, or PACKAGE::FILE')
    parser.add_argument(
        '--work-dir', help='where results go; ./work_dirs/CONFIG if unset'
    )
    parser.add_argument(
        '--amp', action='store_true', help='compute with automatic mixed precision'
    )
    add_overrides(parser)
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none'
    )
    # torch.distributed.launch passes the one or the other spelling.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser
