"""People enrolled with their embeddings, and the search among them."""

from mmhyperface.extras import importing

_PLACES = {
    'FaceGallery': '.gallery',
    'Match': '.matches',
}

__all__ = list(_PLACES)

__getattr__ = importing(__name__, _PLACES)
