from .face_dataset import FaceDataset
from .face_folder import FaceFolder
from .face_folder_pairs import FaceFolderPairs
from .face_list import FaceList
from .face_pack import FacePack
from .face_pairs import FacePairs
from .face_record import FaceRecord
from .face_test_sets import FaceTestSets
from .synthetic_faces import SyntheticFacePairs, SyntheticFaces
from .transforms import LoadFace

__all__ = [
    'FaceDataset',
    'FaceFolder',
    'FaceFolderPairs',
    'FaceList',
    'FacePack',
    'FacePairs',
    'FaceRecord',
    'FaceTestSets',
    'LoadFace',
    'SyntheticFacePairs',
    'SyntheticFaces',
]
