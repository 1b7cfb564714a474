"""What a data set says of its test sets in ``metainfo['test_sets']``.

It is a dict from the name of a set to a dict, whose ``kind`` says what a metric finds
there: 'pairs' (:mod:`.pair_sets`), 'templates' (:mod:`.template_sets`) or 'megaface'
(:mod:`.megaface_images`). Image i of a set is item ``offset + i`` of the data set, and
it has ``num_images`` of them. Images are items of the data set, each once.
"""

from mmhyperface.datasets.face_dataset import FaceDataset
from mmhyperface.utils.errors import UserError


def set_test_set(
    dataset: FaceDataset, name: str, test_set: dict, source: str, parts: str
) -> None:
    """Makes it the test set of `dataset`.

    Args:
        dataset: whose images are those of the set.
        name: of the set, in reports.
        test_set: its kind, and what belongs to that.
        source: where it comes from, for errors.
        parts: what the images of a set make up, in words: 'pairs'.

    Raises:
        UserError: `indices` or `on_error` that would tear these apart.
    """
    if dataset._indices is not None:
        raise UserError(
            f'{source}: indices would leave {parts} without their images; take indices '
            f'out of {type(dataset).__name__}: set {dataset._option("indices", "None")}'
        )
    if dataset.on_error == 'skip':
        raise UserError(
            f"{source}: on_error='skip' would put other images into the {parts}; take "
            f'it out of {type(dataset).__name__}: set '
            f'{dataset._option("on_error", "raise")}'
        )
    dataset._metainfo['test_sets'] = {name: test_set}
