from .alignment import AlignFace, similarity, template
from .augmentation import RandomFaceCrop, RandomFaceFlip, RandomLowResolution
from .loading import LoadFace, decode_face, encoded_face
from .packing import PackFace

__all__ = [
    'AlignFace',
    'LoadFace',
    'PackFace',
    'RandomFaceCrop',
    'RandomFaceFlip',
    'RandomLowResolution',
    'decode_face',
    'encoded_face',
    'similarity',
    'template',
]
