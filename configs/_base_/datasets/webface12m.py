# WebFace12M, three tenths of WebFace42M (arXiv 2103.04098): 12,720,066 images.
_base_ = 'face_record.py'
num_classes = 617_970  # as it is distributed; training counts those of the file
data_root = 'data/webface12m'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
