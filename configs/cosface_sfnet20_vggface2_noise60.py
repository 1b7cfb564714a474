# CosFace under the label noise of sphereface2_sfnet20_vggface2_noise60.py, with the
# loss of cosface_sfnet20_vggface2.py. Not run here.
_base_ = '_base_/recipes/sfnet20_vggface2_noise60.py'
model = dict(head=dict(loss=dict(type='CosFaceLoss', s=30.0, m=0.35)))
