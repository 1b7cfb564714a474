# VGGFace2, its training part (arXiv 1710.08092), as insightface aligned it: 3.1 million
# images.
_base_ = 'face_record.py'
num_classes = 8631  # as it is distributed; training counts those of the file
data_root = 'data/vggface2'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
