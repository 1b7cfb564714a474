# SphereFace2-C, SFNet-64, VGGFace2 (arXiv 2108.01513): OpenSphere 032c31b,
# config/papers/SphereFace2/sec32/vggface2_sfnet64_sphereface2.yml. Not run here.
_base_ = 'sphereface2_sfnet20_vggface2.py'
model = dict(backbone=dict(depth=64))
