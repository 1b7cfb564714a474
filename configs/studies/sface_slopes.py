# SFace (arXiv 2205.12010): how steeply pull and push fade. One k for both in the paper,
# one each in the authors' MXNet code (--param-a and --param-c, 80 by default).
_base_ = '../_base_/studies/losses.py'
title = 'SFace: the slopes k of pull and push'
bases = dict(faces='../sface_faces.py', casia='../sface_ir50_casia.py')
overrides = dict(faces=_base_.small, casia={})
_slopes = (5.0, 20.0, 80.0)
axes = dict(
    pull={f'k {k:g}': {'model.head.loss.k': k} for k in _slopes},
    push={f'k {k:g}': {'model.head.loss.k_inter': k} for k in _slopes},
)
table = dict(rows='pull', columns='push', figures=['lfw.accuracy', 'lfw.auc'])
