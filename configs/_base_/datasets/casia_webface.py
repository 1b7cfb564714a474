# CASIA-WebFace (arXiv 1411.7923) as insightface aligned it: 490,623 images.
_base_ = 'face_record.py'
num_classes = 10_572  # as it is distributed; training counts those of the file
data_root = 'data/casia_webface'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
