from .collate import collate_faces
from .face_dataset import FaceDataset
from .face_folder import FaceFolder
from .face_list import FaceList
from .face_manifest import FaceManifest
from .face_record import FaceRecord
from .samplers import IdentityBalancedSampler, InfiniteFaceSampler
from .synthetic.synthetic_faces import SyntheticFacePairs, SyntheticFaces
from .test_sets.face_folder_pairs import FaceFolderPairs
from .test_sets.face_pack import FacePack
from .test_sets.face_pairs import FacePairs
from .test_sets.face_test_sets import FacePacks, FaceTestSets
from .test_sets.ijb_templates import IJBTemplates
from .test_sets.megaface_images import MegaFaceImages
from .transforms import (
    AlignFace,
    LoadFace,
    PackFace,
    RandomFaceCrop,
    RandomFaceFlip,
    RandomLowResolution,
)
from .wrappers import FaceSets, LabelNoise

__all__ = [
    'AlignFace',
    'FaceDataset',
    'FaceFolder',
    'FaceFolderPairs',
    'FaceList',
    'FaceManifest',
    'FacePack',
    'FacePacks',
    'FacePairs',
    'FaceRecord',
    'FaceSets',
    'FaceTestSets',
    'IJBTemplates',
    'IdentityBalancedSampler',
    'InfiniteFaceSampler',
    'LabelNoise',
    'LoadFace',
    'MegaFaceImages',
    'PackFace',
    'RandomFaceCrop',
    'RandomFaceFlip',
    'RandomLowResolution',
    'SyntheticFacePairs',
    'SyntheticFaces',
    'collate_faces',
]
