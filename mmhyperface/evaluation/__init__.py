from .evaluator import FaceEvaluator  # noqa: F401
from .metrics import *  # noqa: F403
