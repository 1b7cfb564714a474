# SphereFace+ (arXiv 1805.09298), SFNet-20, VGGFace2: OpenSphere 032c31b,
# config/train/vggface2_sfnet20_spherefaceplus.yml. Not run here.
_base_ = '_base_/recipes/sfnet20_vggface2.py'
model = dict(
    head=dict(loss=dict(type='SphereFacePlusLoss', s=30.0, m=1.5, lam_mhe=0.1))
)
