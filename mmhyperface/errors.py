"""The one exception for mistakes in a user's config, command or files."""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

#: Exit status of a tool: done, but not all that was asked for, as stderr tells.
INCOMPLETE = 3


class UserError(ValueError):
    """Something the user can mend: says what is wrong, where, and what to do.

    The command line tools print the message alone, without a traceback.
    """

    @property
    def brief(self) -> str:
        """The message without the traceback a DataLoader worker wraps it in.

        (Not named ``message``: torch would rebuild the exception from that.)
        """
        return str(self).rpartition(f'{type(self).__name__}: ')[2].strip()


def some(values: Sequence[Any] | npt.NDArray[Any], most: int = 10) -> str:
    """The first few of them, for a message: ``'3, 7, … (21 in all)'``."""
    listed = ', '.join(str(value) for value in values[:most])
    return f'{listed}, … ({len(values)} in all)' if len(values) > most else listed
