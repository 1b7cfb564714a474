from .gallery import FaceGallery
from .search import Match

__all__ = ['FaceGallery', 'Match']
