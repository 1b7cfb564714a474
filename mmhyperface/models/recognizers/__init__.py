from .data_preprocessor import FaceDataPreprocessor
from .face_recognizer import FaceRecognizer, image_channels

__all__ = ['FaceDataPreprocessor', 'FaceRecognizer', 'image_channels']
