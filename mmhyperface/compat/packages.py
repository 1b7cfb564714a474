"""Installed packages: whether they fit, and where the configs that they ship are."""

import importlib.metadata
import importlib.util
import os.path as osp
import sys
from collections.abc import Callable

from mmengine.config import utils as config_utils
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import digit_version, package_utils

_get_package_and_cfg_path = config_utils._get_package_and_cfg_path
_is_installed = package_utils.is_installed
_get_installed_path = package_utils.get_installed_path


def get_package_and_cfg_path(cfg_path: str) -> tuple[str, str]:
    """mmengine's function, also for `package::config.py`.

    mmengine insists on a folder, as if every package sorted its configs into some.
    """
    package, _, name = cfg_path.partition('::')
    if package in MODULE2PACKAGE and name and not {'/', ':'} & set(name):
        return MODULE2PACKAGE[package], name
    return _get_package_and_cfg_path(cfg_path)


def is_installed(package: str) -> bool:
    """mmengine's ``is_installed``, also without pkg_resources."""
    try:
        return _is_installed(package)
    except ImportError:
        return _find(package) is not None


def get_installed_path(package: str) -> str:
    """mmengine's ``get_installed_path``, also for editable installs.

    pkg_resources gives site-packages for those, where the package is not.
    """
    try:
        path = _get_installed_path(package)
    except ImportError:  # no pkg_resources
        path = ''
    if osp.exists(path):
        return path
    place = _find(package)
    if place is None:
        raise importlib.metadata.PackageNotFoundError(package)
    return place


def _find(package: str) -> str | None:
    modules = {package: module for module, package in MODULE2PACKAGE.items()}
    spec = importlib.util.find_spec(modules.get(package, package))
    return osp.dirname(spec.origin) if spec and spec.origin else None


def _replace(name: str, original: Callable, replacement: Callable) -> None:
    """Rebind a function in every module of mmengine that has imported it."""
    for module_name, module in list(sys.modules.items()):
        if (
            module_name.partition('.')[0] == 'mmengine'
            and getattr(module, name, None) is original
        ):
            setattr(module, name, replacement)


def require_fitting_numpy() -> None:
    """Raise ``ImportError`` if torch was built for numpy 1 and numpy 2 is installed.

    It warns of that once, and then knows no arrays: "Numpy is not available".
    """
    try:
        torch, numpy = map(importlib.metadata.version, ('torch', 'numpy'))
    except importlib.metadata.PackageNotFoundError:
        return  # of a build that has no metadata
    if digit_version(torch) >= digit_version('2.3') or digit_version(
        numpy
    ) < digit_version('2'):
        return
    raise ImportError(
        f'torch {torch} is built for numpy 1 and cannot use arrays of numpy {numpy}, '
        'which is installed. Take torch 2.3 or newer, or numpy 1: pip install '
        '"numpy<2" "opencv-python<4.12". An extra brings numpy 2 again unless the '
        f'same command names them: pip install "mmhyperface[EXTRA]" "torch=={torch}" '
        '"numpy<2" "opencv-python<4.12" "pyarrow<26"'
    )


def apply() -> None:
    """Make `mmhyperface::` known to configs, and packages findable."""
    require_fitting_numpy()
    MODULE2PACKAGE.setdefault('mmhyperface', 'mmhyperface')
    _replace(
        '_get_package_and_cfg_path',
        _get_package_and_cfg_path,
        get_package_and_cfg_path,
    )
    _replace('is_installed', _is_installed, is_installed)
    _replace('get_installed_path', _get_installed_path, get_installed_path)
