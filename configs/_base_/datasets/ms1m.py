# MS1MV2, the refined MS-Celeb-1M of ArcFace (arXiv 1801.07698): 5,822,653 images.
_base_ = 'face_record.py'
num_classes = 85_742  # as it is distributed; training counts those of the file
data_root = 'data/ms1m'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
