# LFW without outside data: trained on the people of View 1's training part, tested on
# those of its test part (View 2 shares people with both). Give data_root=LFW/faces and
# lfw_root=LFW, where peopleDevTrain.txt and pairsDevTest.txt are.
title = 'LFW View 1, without outside data'
bases = dict(faces='../sphereface2_faces.py')
overrides = {
    'train_dataloader.dataset.include': '../peopleDevTrain.txt',
    'lfw_pairs': 'pairsDevTest.txt',
}
axes = dict(
    loss={
        'SphereFace2-C': dict(config='../sphereface2_faces.py'),
        'SphereFace-R v2': dict(config='../spherefacer_faces.py'),
        'SFace': dict(config='../sface_faces.py'),
    }
)
table = dict(rows='loss', figures=['lfw.accuracy', 'lfw.eer', 'lfw.auc'])
