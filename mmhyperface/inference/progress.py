"""How far an inferencer is."""

from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from .inputs import Item


def with_progress(items: Iterable[Item], inputs: Any) -> Iterator[Item]:
    """The items, with a bar on stderr while they are taken.

    Args:
        inputs: What the items are of. Of a generator nobody knows the end.
    """
    total = None
    if isinstance(inputs, str | Path | Sized):
        items = list(items)
        total = len(items)
    columns = ('embedding', BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, transient=True, console=console) as progress:
        bar = progress.add_task('', total=total)
        for item in items:
            yield item
            progress.advance(bar)
