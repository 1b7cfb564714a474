from .alignment import AlignFace, similarity, template
from .augmentation import RandomFaceCrop, RandomLowResolution
from .loading import LoadFace, decode_face, encoded_face

__all__ = [
    'AlignFace',
    'LoadFace',
    'RandomFaceCrop',
    'RandomLowResolution',
    'decode_face',
    'encoded_face',
    'similarity',
    'template',
]
