import pytest

from mmhyperface.errors import UserError
from mmhyperface.registry import DATASETS


def test_says_what_to_use_instead():
    config = dict(type='mmhyperface.FaceRecord', data_root='data/ms1m', pipeline=[])
    with pytest.raises(
        UserError, match=r"'data/ms1m/train\.rec'.*FaceFolder.*FaceList"
    ):
        DATASETS.build(config)
    with pytest.raises(UserError, match=r"'/sets/casia\.rec'"):
        DATASETS.build({**config, 'ann_file': '/sets/casia.rec'})
