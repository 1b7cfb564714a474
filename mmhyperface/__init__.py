"""Hyperspherical face recognition for OpenMMLab.

Importing this package is cheap and does without torch: models, data sets and
metrics are imported when the registry first looks for one of them, or by name from
their subpackages.
"""

from .compat import packages
from .version import __version__

packages.apply()

__all__ = ['__version__']
