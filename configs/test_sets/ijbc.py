_base_ = '../_base_/datasets/ijbc.py'
