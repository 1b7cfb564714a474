"""What only some tasks need, and is imported when they do."""

from collections.abc import Callable, Mapping
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


def importing(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose names are imported when first asked for.

    Torch alone takes seconds, which whoever reads ``--help`` need not wait.

    Args:
        package: Its ``__name__``.
        places: The module of each name; relative to the package with a dot.
    """

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        return getattr(import_module(places[name], package), name)

    return get
