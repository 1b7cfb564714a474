# CosFace (arXiv 1801.09414), SFNet-20, VGGFace2: OpenSphere 032c31b,
# config/papers/SphereFace2/sec31/vggface2_sfnet20_cosface.yml. Not run here.
_base_ = '_base_/recipes/sfnet20_vggface2.py'
model = dict(head=dict(loss=dict(type='CosFaceLoss', s=30.0, m=0.35)))
