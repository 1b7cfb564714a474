"""Draw embeddings of two or three dimensions on their circle or sphere.

    python tools/analysis_tools/plot_hypersphere.py \
        configs/normface_hypersphere.py work_dirs/normface_hypersphere/iter_800.pth

Several checkpoints stand side by side; they may have been trained with other losses.
"""

import argparse

import numpy as np
from mmengine.config import Config

from mmhyperface.engine.launch import load_config
from mmhyperface.utils.command_line import add_overrides, report_errors
from mmhyperface.utils.errors import UserError

NOTES = {
    'train': 'training images, as training sees them',
    'val': 'validation images',
    'test': 'test images',
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config', help='path of the config')
    add('checkpoints', nargs='+', help='paths of its checkpoints')
    add('--out', default='hypersphere.png', help='picture to write')
    add('--names', nargs='+', help='of the checkpoints; by default of their folders')
    add('--phase', default='train', choices=tuple(NOTES), help='whose images')
    add('--identities', type=int, default=10, help='the first so many people')
    add('--images', type=int, default=60, help='the first so many of each')
    add_overrides(parser)
    args = parser.parse_args()

    from mmhyperface.inference.dataset_embeddings import require_names
    from mmhyperface.visualization import require_picture

    if args.identities < 1 or args.images < 1:
        raise UserError('--identities and --images must be at least 1')
    args.names = require_names(args.names, args.checkpoints)
    require_picture(args.out)
    return args


def require_small(cfg: Config) -> None:
    """Before anything is loaded or drawn."""
    head = cfg.get('model', {}).get('head') or {}
    if head.get('in_channels', 2) not in (2, 3):
        raise UserError(
            f'{cfg.filename}: only embeddings of 2 or 3 dimensions can be drawn, these '
            f'have {head["in_channels"]}; train a network with '
            'model.backbone.embedding_size=2 model.head.in_channels=2, as '
            'configs/normface_hypersphere.py does'
        )


def chosen(people: np.ndarray, identities: int, images: int) -> np.ndarray:
    """Numbers of the first images of the first people, int64 [N]."""
    known = np.unique(people[people >= 0])[:identities]
    return np.concatenate([np.flatnonzero(people == p)[:images] for p in known])


def main() -> None:
    args = parse_args()

    from mmhyperface.inference.dataset_embeddings import (
        build_dataset,
        embed,
        head_of,
        people_of,
    )
    from mmhyperface.inference.loading import load_runner
    from mmhyperface.visualization import Cloud, draw_hypersphere, save_figure

    cfg = load_config(args.config, args.cfg_options)
    require_small(cfg)
    dataset = build_dataset(cfg, args.phase)
    people = people_of(dataset)
    numbers = chosen(people, args.identities, args.images)
    drawn = len(np.unique(people[numbers]))
    clouds = {}
    for name, checkpoint in zip(args.names, args.checkpoints, strict=True):
        runner = load_runner(cfg, checkpoint)
        rows = embed(runner, cfg, args.phase, dataset, numbers)
        centres = head_of(runner.model, args.config).weight.detach().cpu()
        known = args.phase == 'train'
        clouds[name] = Cloud(
            rows.double().numpy(),
            people[numbers],
            centres.double().numpy() if known else np.empty((0, rows.shape[1])),
        )
    note = f'{NOTES[args.phase]}: {len(numbers)} of {drawn} people'
    save_figure(draw_hypersphere(clouds, note), args.out)
    print(f'{args.out}: {note}')


if __name__ == '__main__':
    with report_errors():
        main()
