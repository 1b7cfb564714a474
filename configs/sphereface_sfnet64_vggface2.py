# SphereFace, SFNet-64, VGGFace2 (arXiv 2108.01513): OpenSphere 032c31b,
# config/papers/SphereFace2/sec32/vggface2_sfnet64_sphereface.yml. Not run here.
_base_ = '_base_/recipes/sfnet64_vggface2.py'
model = dict(head=dict(loss=dict(type='SphereFaceLoss', s=30.0, m=1.5)))
