# ArcFace (arXiv 1801.07698), SFNet-20, VGGFace2: OpenSphere 032c31b,
# config/papers/SphereFace2/sec31/vggface2_sfnet20_arcface.yml. Not run here.
_base_ = '_base_/recipes/sfnet20_vggface2.py'
model = dict(head=dict(loss=dict(type='ArcFaceLoss', s=30.0, m=0.5, beyond='clip')))
