from .gallery import FaceGallery
from .matches import Match

__all__ = ['FaceGallery', 'Match']
