# SphereFace+ (arXiv 1805.09298), SFNet-64 with batch norm, MS1M: in OpenSphere
# 032c31b's README with weights and without a config; the setting of
# sphereface_sfnet64_ms1m.py with the energy's weight for VGGFace2. Not run here.
_base_ = 'sphereface_sfnet64_ms1m.py'
model = dict(head=dict(loss=dict(type='SphereFacePlusLoss', lam_mhe=0.1)))
