from .alignment import AlignFace, similarity, template
from .augmentation import RandomFaceCrop, RandomFaceFlip, RandomLowResolution
from .loading import LoadFace, PackFace, decode_face, encoded_face

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
