"""Drawn faces, to try a network with that was trained on such."""

from pathlib import Path

import cv2

from mmhyperface.datasets import SyntheticFaces

#: Whom no config of ours trains or examines with.
FIRST_PERSON = 1_000_002
PEOPLE, EACH = 3, 2


def draw(folder: Path, size: int) -> list[list[str]]:
    """Pictures of `PEOPLE` people, `EACH` of each; gives pairs of their paths.

    Args:
        size: Height and width in pixels.
    """
    faces = SyntheticFaces(PEOPLE, EACH, image_size=size, first_identity=FIRST_PERSON)
    paths = [
        str(folder / f'person {person + 1}, picture {picture + 1}.png')
        for person in range(PEOPLE)
        for picture in range(EACH)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        cv2.imwrite(path, faces.get_data_info(number)['img'])
    return [[paths[0], paths[1]], [paths[2], paths[3]], [paths[0], paths[2]]]
