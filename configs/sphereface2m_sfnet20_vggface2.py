# SphereFace2-M, SFNet-20, VGGFace2 (arXiv 2108.01513, appendix): OpenSphere 032c31b,
# config/papers/SphereFace2/appendix/vggface2_sfnet20_sphereface2M.yml. Not run here.
_base_ = 'sphereface2_sfnet20_vggface2.py'
model = dict(head=dict(loss=dict(margin_type='M', m=1.7)))
