# MS1MV3, MS-Celeb-1M aligned with RetinaFace: 5,179,510 images.
_base_ = 'face_record.py'
num_classes = 93_431  # as it is distributed; training counts those of the file
data_root = 'data/ms1mv3'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
