_base_ = '../_base_/datasets/verification_pack.py'
test_dataloader = dict(dataset=dict(ann_file='cfp_fp.bin'))
