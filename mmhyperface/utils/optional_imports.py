"""What only some tasks need, and is imported when they do."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from mmhyperface.utils.errors import UserError


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


def importing(
    package: str, places: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package that imports its names when asked.

    Torch alone takes seconds, which whoever reads ``--help`` need not wait. What type
    checkers read is what the package imports below ``if TYPE_CHECKING``.

    Args:
        package: Its ``__name__``.
        places: The module of each name; relative to the package with a dot.
    """

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        return getattr(import_module(places[name], package), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *places})

    return get, names
