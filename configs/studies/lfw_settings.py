# Scale and margin of each loss, to be chosen on LFW's View 1, never on View 2.
_base_ = '../_base_/studies/losses.py'
title = 'Scale and margin of each loss, chosen on View 1 of LFW'
bases = dict(faces='../sphereface2_faces.py')
overrides = dict(lfw_pairs='pairsDevTrain.txt')


def _scaled(loss, scale):
    loss = loss['model.head.loss']
    name = 'r' if 'r' in loss else 's'
    # SphereFace-R's published weight is of L / s.
    weight = {'loss_weight': 1.0} if loss['type'] == 'SphereFaceRLoss' else {}
    return {'model.head.loss': {**loss, name: scale, **weight, '_delete_': True}}


axes = dict(
    loss={
        f'{name}{which} scale {scale:g}': _scaled(loss, scale)
        for losses, which in (
            (_base_.in_papers, ''),
            (_base_.for_few, ' half margin'),
        )
        for name, loss in losses.items()
        for scale in (8.0, 16.0, 30.0)
        if name != 'NormFace' or not which
    }
)
seeds = [100]
table = dict(rows='loss', figures=['lfw.accuracy', 'lfw.eer'])
