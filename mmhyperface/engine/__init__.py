from .hooks import *  # noqa: F403
from .runner import FaceRunner  # noqa: F401
