"""Write a contact sheet of a data set: a row per identity, pictures side by side."""

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config, DictAction

from mmhyperface.apis import dataset_config, load_config, report_errors
from mmhyperface.errors import UserError
from mmhyperface.registry import DATASETS

# Packing turns an image into a tensor; everything before it is shown.
PACKING = ('PackInputs', 'mmpretrain.PackInputs')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file with the data set')
    parser.add_argument('--output', default='sheet.png', help='picture to write')
    parser.add_argument(
        '--phase', default='train', choices=('train', 'val', 'test'), help='which one'
    )
    parser.add_argument('--identities', type=int, default=8, help='number of rows')
    parser.add_argument('--images', type=int, default=8, help='pictures of each')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='overrides, key=value'
    )
    args = parser.parse_args()
    if args.identities < 1 or args.images < 1:
        parser.error('--identities and --images must be at least 1')
    return args


def build_dataset(config: Config, phase: str) -> Any:
    """The data set of a phase with the transforms that make images."""
    dataset = dataset_config(config, phase)
    dataset.pipeline = [
        step for step in dataset.get('pipeline', []) if step['type'] not in PACKING
    ]
    return DATASETS.build(dataset)


def collect(dataset: Any, identities: int, images: int) -> list[list[np.ndarray]]:
    """The first `images` pictures of each of the first `identities` people."""
    rows: dict[int, list[np.ndarray]] = {}
    for index in range(len(dataset)):
        label = int(dataset.get_cat_ids(index)[0])
        if label not in rows and len(rows) == identities:
            continue
        row = rows.setdefault(label, [])
        if len(row) < images:
            row.append(dataset[index]['img'])
        if len(rows) == identities and all(len(r) == images for r in rows.values()):
            break
    return list(rows.values())


def contact_sheet(rows: list[list[np.ndarray]], images: int) -> np.ndarray:
    """Pictures of one size on white; short rows stay white at their end."""
    height, width = rows[0][0].shape[:2]
    sheet = np.full((len(rows) * height, images * width, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            place = sheet[r * height :, c * width :][:height, :width]
            place[:] = cv2.resize(image, (width, height))
    return sheet


def main() -> None:
    args = parse_args()
    config = load_config(args.config, args.cfg_options)
    dataset = build_dataset(config, args.phase)
    rows = collect(dataset, args.identities, args.images)
    if not rows:
        raise UserError(f'{args.config}: the {args.phase} data set is empty')
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    try:
        written = cv2.imwrite(args.output, contact_sheet(rows, args.images))
    except cv2.error:
        written = False
    if not written:
        raise UserError(f'{args.output}: cannot be written; name a .png or .jpg')
    print(f'{args.output}: {len(rows)} identities of {len(dataset)} images')


if __name__ == '__main__':
    with report_errors():
        main()
