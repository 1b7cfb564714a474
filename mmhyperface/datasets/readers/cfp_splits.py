"""The pairs of Celebrities in Frontal-Profile, in the files that it comes with.

Sengupta et al., "Frontal to Profile Face Verification in the Wild", WACV 2016. Beside
``Protocol/Split``, ``Pair_list_F.txt`` and ``Pair_list_P.txt`` number the frontal and
the profile images: lines ``number path``, paths from ``Protocol``. ``Split/FF`` and
``Split/FP`` have a folder for each fold, 01 to 10, with pairs ``number,number`` of one
person in ``same.txt`` and of two in ``diff.txt``; the first image is a frontal one, the
second is too in FF, and a profile one in FP.
"""

import os

import numpy as np

from mmhyperface.utils.errors import UserError

from .text_lists import is_number, read_lines

_LISTS = {'F': 'Pair_list_F.txt', 'P': 'Pair_list_P.txt'}
_KINDS = {'same.txt': True, 'diff.txt': False}


def read_cfp(
    folder: str, advice: str, below: bool
) -> tuple[list[tuple[int | str, bool, str, str]], np.ndarray]:
    """The pairs of ``Split/FF`` or ``Split/FP``, and the fold of each.

    Args:
        folder: One of these two.
        advice: Ends the error of a file that cannot be read.
        below: Give paths from the folder of the images on, ``001/frontal/01.jpg``,
            and not where they lie beside the protocol.

    Returns:
        Of each pair file and line within `folder`, whether it is one person, and two
        paths; and int64 [P].

    Raises:
        UserError: If it is another folder, or has other lines.
    """
    kinds = os.path.basename(os.path.normpath(folder))
    if kinds not in ('FF', 'FP'):
        raise UserError(
            f"'{folder}' is a folder, but none of CFP's, Protocol/Split/FF and "
            f'Protocol/Split/FP. {advice}'
        )
    protocol = os.path.join(folder, os.pardir, os.pardir)
    images = [
        _read_images(os.path.normpath(os.path.join(protocol, _LISTS[kind])), advice)
        for kind in kinds
    ]
    names = sorted(name for name in os.listdir(folder) if name.isdecimal())
    if not names:
        raise UserError(f"'{folder}' has no folders 01, 02, ... of folds. {advice}")
    pairs: list[tuple[int | str, bool, str, str]] = []
    folds: list[int] = []
    for fold, name in enumerate(names):
        for file, same in _KINDS.items():
            path = os.path.join(folder, name, file)
            for line, text in read_lines(path, advice):
                numbers = [part.strip() for part in text.split(',')]
                if len(numbers) != 2 or not all(map(is_number, numbers)):
                    raise UserError(
                        f'{path}:{line}: expected `number,number`, got {text!r:.300}'
                    )
                both = [
                    known.get(int(number), '')
                    for known, number in zip(images, numbers, strict=True)
                ]
                if not all(both):
                    kind = kinds[both.index('')]
                    raise UserError(
                        f'{path}:{line}: {_LISTS[kind]} has no image of the number '
                        f'{numbers[both.index("")]}'
                    )
                if below:
                    first, second = ('/'.join(x.split('/')[-3:]) for x in both)
                else:
                    first, second = (
                        os.path.normpath(os.path.join(protocol, x)) for x in both
                    )
                pairs.append((f'{name}/{file}:{line}', same, first, second))
                folds.append(fold)
    return pairs, np.array(folds, np.int64)


def _read_images(path: str, advice: str) -> dict[int, str]:
    images: dict[int, str] = {}
    for line, text in read_lines(path, advice):
        number, _, image = text.partition(' ')
        image = image.strip()
        if not is_number(number) or not image or int(number) in images:
            raise UserError(
                f'{path}:{line}: expected `number path`, each number once, got '
                f'{text!r:.300}'
            )
        images[int(number)] = image
    return images
