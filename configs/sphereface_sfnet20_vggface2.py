# SphereFace (arXiv 1704.08063), SFNet-20, VGGFace2: OpenSphere 032c31b,
# config/train/vggface2_sfnet20_sphereface.yml. Not run here.
_base_ = '_base_/recipes/sfnet20_vggface2.py'
model = dict(head=dict(loss=dict(type='SphereFaceLoss', s=30.0, m=1.5)))
