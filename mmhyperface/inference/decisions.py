"""Which threshold decides whether two faces are of one person."""

from mmhyperface.utils.errors import UserError
from mmhyperface.weights.convention import Convention


def decide_threshold(
    convention: Convention,
    source: str,
    threshold: float | None = None,
    far: float | None = None,
) -> tuple[float | None, float | None, str | None]:
    """The least cosine of one person, its FAR and the test set it is of.

    Args:
        convention: Of the network, with the thresholds that it carries.
        source: Names the network in messages.
        threshold: Is taken as it is.
        far: False accept rate of the network's own; by default the lowest that enough
            pairs stand on.

    Returns:
        Three times None where no threshold is known.

    Raises:
        UserError: If both are given, the threshold is no cosine, or the network has
            none for this rate.
    """
    if threshold is not None:
        if far is not None:
            raise UserError('give a threshold or a false accept rate (far), not both')
        if not -1 <= threshold <= 1:
            raise UserError(f'a threshold is a cosine, -1 to 1, got {threshold}')
        return float(threshold), None, None
    point = convention.operating_point(far)
    if point is not None:
        return point.threshold, point.far, point.test_set
    if far is not None:
        raise UserError(
            f'{source} carries no thresholds, so none for a false accept rate of '
            f'{far:g}: give a threshold (threshold=..., --threshold), or examine the '
            'checkpoint with tools/test.py --save-thresholds'
        )
    return None, None, None
