# IJB-B, 1:1 and 1:N: 227,630 loose crops in 12,115 templates.
_base_ = 'ijbc.py'
data_root = 'data/ijb/IJBB'
test_dataloader = dict(dataset=dict(data_root=data_root, subset='IJBB'))
