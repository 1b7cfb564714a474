"""MXNet RecordIO (``train.rec``), which this version does not read."""

import os
from typing import Any

from mmhyperface.errors import UserError
from mmhyperface.registry import DATASETS


@DATASETS.register_module()
class FaceRecord:
    """Says that ``.rec`` files cannot be read yet, and what can."""

    def __init__(
        self, data_root: str = '', ann_file: str = 'train.rec', **kwargs: Any
    ) -> None:
        raise UserError(
            f"FaceRecord: cannot read '{os.path.join(data_root, ann_file)}': this "
            'version of mmhyperface does not read RecordIO files (.rec) yet. Unpack it '
            'into a folder data_root/identity/image and use FaceFolder, or FaceList '
            'with a list of the images'
        )
