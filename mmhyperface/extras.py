"""Libraries that only some tasks need."""

from importlib import import_module
from typing import Any

from mmhyperface.errors import UserError


def require(module: str, extra: str) -> Any:
    """Import an optional library.

    Args:
        module: What to import.
        extra: Of ``pip install "mmhyperface[EXTRA]"``, which brings it.

    Raises:
        UserError: If it is not installed, or cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f'this needs {module.partition(".")[0]} ({error}): '
            f'pip install "mmhyperface[{extra}]"'
        ) from None
