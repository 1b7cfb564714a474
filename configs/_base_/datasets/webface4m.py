# WebFace4M, a tenth of WebFace42M (arXiv 2103.04098): 4,235,242 images.
_base_ = 'face_record.py'
num_classes = 205_990  # as it is distributed; training counts those of the file
data_root = 'data/webface4m'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
