from .loading import LoadFace, decode_face

__all__ = ['LoadFace', 'decode_face']
