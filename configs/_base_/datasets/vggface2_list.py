# VGGFace2, its training part (arXiv 1710.08092), as OpenSphere distributes it.
_base_ = 'face_list.py'
num_classes = 8631  # as it is distributed; training counts those of the list
train_dataloader = dict(dataset=dict(ann_file='train/vggface2_train_ann.txt'))
