# Glint360K (arXiv 2010.05222): 17,091,657 images.
_base_ = 'face_record.py'
num_classes = 360_232  # as it is distributed; training counts those of the file
data_root = 'data/glint360k'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
