# SFace (arXiv 2205.12010): where pull (a) and push (b) fade, in radians.
_base_ = '../_base_/studies/losses.py'
title = 'SFace: a and b'
bases = dict(faces='../sface_faces.py', casia='../sface_ir50_casia.py')
overrides = dict(faces=_base_.small, casia={})
axes = dict(
    a={str(a): {'model.head.loss.a': a} for a in (0.5, 0.7, 0.87, 1.0)},
    b={str(b): {'model.head.loss.b': b} for b in (1.0, 1.1, 1.2, 1.3, 1.4)},
)
table = dict(rows='a', columns='b', figures=['lfw.accuracy', 'lfw.auc'])
plot = dict(x='b', label='b')
