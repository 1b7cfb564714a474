# MS-Celeb-1M, refined, as OpenSphere distributes it.
_base_ = 'face_list.py'
num_classes = 85_742  # as it is distributed; training counts those of the list
train_dataloader = dict(dataset=dict(ann_file='train/ms1m_refine_train_ann.txt'))
