# SphereFace2's similarity adjustment g(z) = 2 ((z + 1) / 2)^t - 1 (arXiv 2108.01513,
# section 2.3): how far apart it pulls the scores. d' is the distance of the means of
# both kinds of pairs in standard deviations; each run's verification.png has the
# scores.
_base_ = '../_base_/studies/losses.py'
title = 'SphereFace2: scores over t'
bases = dict(
    faces='../sphereface2_faces.py', vggface2='../sphereface2_sfnet20_vggface2.py'
)
overrides = dict(faces=_base_.small, vggface2={})
axes = dict(t={str(t): {'model.head.loss.t': float(t)} for t in (1, 2, 3, 4, 5, 7)})
table = dict(
    rows='t',
    figures=dict(
        faces=['lfw.d_prime', 'lfw.accuracy'],
        vggface2=['combined.d_prime', 'combined.accuracy'],
    ),
)
plot = dict(x='t', label='t')
