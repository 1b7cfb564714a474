# SphereFace-R v1 with hard feature normalisation (arXiv 2109.05565), SFNet-20,
# VGGFace2: OpenSphere 032c31b has the loss, model/head/spherefacer.py, with these as
# its defaults, and no config of it. Not run here.
_base_ = 'spherefacer_sfnet20_vggface2.py'
model = dict(head=dict(loss=dict(version='v1', s=30.0, m=1.5, loss_weight=50.0 / 30.0)))
