# NormFace (arXiv 1704.06369), SFNet-20, VGGFace2: OpenSphere 032c31b,
# config/papers/SphereFace2/sec31/vggface2_sfnet20_cocoloss.yml. Not run here.
_base_ = '_base_/recipes/sfnet20_vggface2.py'
model = dict(head=dict(loss=dict(type='NormFaceLoss', s=30.0)))
