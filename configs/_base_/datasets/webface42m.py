# WebFace42M, the cleaned WebFace260M (arXiv 2103.04098): 42,474,557 images.
_base_ = 'face_record.py'
num_classes = 2_059_906  # as it is distributed; training counts those of the file
data_root = 'data/webface42m'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
