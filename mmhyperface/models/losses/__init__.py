from .adaface import AdaFaceLoss
from .arcface import ArcFaceLoss
from .base import DecoupledLoss, HypersphereLoss, SoftmaxLoss
from .cosface import CosFaceLoss
from .curricularface import CurricularFaceLoss
from .elasticface import ElasticFaceLoss
from .magface import MagFaceLoss
from .normface import NormFaceLoss
from .sface import SFaceLoss
from .sphereface import SphereFaceLoss
from .sphereface2 import SphereFace2Loss
from .sphereface_plus import SphereFacePlusLoss
from .sphereface_r import SphereFaceRLoss
from .uniface import UniFaceLoss

__all__ = [
    'AdaFaceLoss',
    'ArcFaceLoss',
    'CosFaceLoss',
    'CurricularFaceLoss',
    'DecoupledLoss',
    'ElasticFaceLoss',
    'HypersphereLoss',
    'MagFaceLoss',
    'NormFaceLoss',
    'SFaceLoss',
    'SoftmaxLoss',
    'SphereFace2Loss',
    'SphereFaceLoss',
    'SphereFacePlusLoss',
    'SphereFaceRLoss',
    'UniFaceLoss',
]
