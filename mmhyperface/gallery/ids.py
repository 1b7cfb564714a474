"""Names of people and images: any text that can be shown and written to a file; and
where images are from."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from mmhyperface.utils.errors import UserError, some

# Control characters, breaks of lines, and halves of characters (which stand for bytes
# of a file name that are no UTF-8).
_UNFIT = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')


class Origin(NamedTuple):
    """Where the embedding of an image is from; each empty where it is not known.

    Attributes:
        digest: Of the content of the image, see :class:`.Picture`.
        alignment: How the face was found, see :class:`.Face`.
    """

    digest: str = ''
    alignment: str = ''


UNKNOWN = Origin()


def require_ids(ids: Sequence[str], what: str) -> None:
    """
    Args:
        what: ``person`` or ``image``, for messages.

    Raises:
        UserError: If one is no string, has nothing to show, or holds a character that
            is none.
    """
    for number, name in enumerate(ids):
        if not isinstance(name, str):
            raise UserError(
                f'{what} {number}: the name must be a string, not {name!r} '
                f'({type(name).__name__})'
            )
        if not name.strip():
            raise UserError(f'{what} {number}: the name is empty')
        if _UNFIT.search(name):
            raise UserError(
                f'{what} {number}: the name {name!a} holds a control character, a '
                'line break or bytes that are no UTF-8; rename it'
            )


def require_list(ids: Sequence[str], what: str) -> list[str]:
    """
    Raises:
        UserError: If it is one string, which is a sequence of its letters.
    """
    if isinstance(ids, str | bytes):
        raise UserError(f'{what} must be a list of names, not the string {ids!r}')
    return list(ids)


def require_new(images: Sequence[str], known: set[str]) -> None:
    """
    Raises:
        UserError: If an image is there already, or twice among these.
    """
    given = set(images)
    there = sorted(given & known)
    if there:
        raise UserError(
            f'the gallery has image {some(there)} already; remove it first '
            '(FaceGallery.remove), or give the new one another name'
        )
    if len(given) < len(images):
        twice = [image for image, count in Counter(images).items() if count > 1]
        raise UserError(f'image {some(twice)} is given more than once')
