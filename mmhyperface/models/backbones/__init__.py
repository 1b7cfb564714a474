from .ir import IR
from .iresnet import IResNet
from .mobilefacenet import MobileFaceNet
from .sfnet import SFNet

__all__ = ['IR', 'IResNet', 'MobileFaceNet', 'SFNet']
