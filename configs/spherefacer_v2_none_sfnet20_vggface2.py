# SphereFace-R v2 without feature normalisation (arXiv 2109.05565), SFNet-20, VGGFace2,
# its margin growing from 1 to 1.4: OpenSphere 032c31b has the loss, SphereFaceR_N in
# model/head/spherefacer.py, and no config of it; steps and milestones are ours. Not run
# here.
_base_ = 'spherefacer_sfnet20_vggface2.py'
model = dict(
    head=dict(loss=dict(version='v2', feature_norm='none', m=1.4, loss_weight=1.0))
)
custom_hooks = [
    dict(type='MarginSchedulerHook', dm=0.1, milestones=[5_000, 10_000, 15_000, 20_000])
]
