from .face_verification import FaceVerification, VerificationResult

__all__ = ['FaceVerification', 'VerificationResult']
