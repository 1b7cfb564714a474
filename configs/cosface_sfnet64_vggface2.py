# CosFace (arXiv 1801.09414), SFNet-64, VGGFace2: OpenSphere 032c31b,
# config/papers/SphereFace2/sec32/vggface2_sfnet64_cosface.yml. Not run here.
_base_ = '_base_/recipes/sfnet64_vggface2.py'
model = dict(head=dict(loss=dict(type='CosFaceLoss', s=30.0, m=0.35)))
