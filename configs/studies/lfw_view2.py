# Which loss? All of them on one folder of faces and one budget, verified on LFW's View
# 2 (lfw_root=FOLDER, official folds); each as published, and scaled for few people. On
# VGGFace2 it is SphereFace2's comparison (arXiv 2108.01513) on four sets together.
_base_ = '../_base_/studies/losses.py'
title = 'Losses on LFW, trained on a folder of faces'
bases = dict(
    faces='../sphereface2_faces.py', vggface2='../sphereface2_sfnet20_vggface2.py'
)
axes = dict(
    loss={
        **_base_.in_papers,
        **{f'{name} scaled': loss for name, loss in _base_.for_few.items()},
    }
)
table = dict(
    rows='loss',
    figures=dict(
        faces=['lfw.accuracy', 'lfw.eer', 'lfw.auc', 'lfw.tar@far=1e-02'],
        vggface2=['combined.accuracy', 'lfw.accuracy'],
    ),
)
# SphereFace2, SFNet-20, VGGFace2, LFW, AgeDB-30, CALFW and CPLFW together.
published = {'SphereFace2-C': {'combined.accuracy': 94.28}}
