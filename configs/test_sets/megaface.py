_base_ = '../_base_/datasets/megaface.py'
