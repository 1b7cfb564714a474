# SphereFace-R v1 with soft feature normalisation (arXiv 2109.05565), SFNet-20,
# VGGFace2, its margin growing from 1 to 1.5: OpenSphere 032c31b has the loss,
# SphereFaceR_S in model/head/spherefacer.py, and no config of it; steps and milestones
# are ours. Not run here.
_base_ = 'spherefacer_v1_none_sfnet20_vggface2.py'
model = dict(
    head=dict(loss=dict(feature_norm='soft', s=30.0, t=0.01, loss_weight=50.0 / 30.0))
)
