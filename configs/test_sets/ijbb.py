_base_ = '../_base_/datasets/ijbb.py'
