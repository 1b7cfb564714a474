"""Plot characteristic functions, margins and gradients of losses side by side.

    python tools/analysis_tools/plot_characteristics.py \
        configs/sphereface2_quickstart.py ArcFace "SphereFaceR(version=v2, m=1.4)"

Each is the loss of a config, or a loss by name with the arguments that differ from its
defaults.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mmhyperface.engine.launch import load_config
from mmhyperface.utils.command_line import add_overrides, report_errors
from mmhyperface.utils.errors import UserError

if TYPE_CHECKING:
    from mmhyperface.models.losses import HypersphereLoss


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('losses', nargs='+', metavar='LOSS', help='config, or loss by name')
    add('--out', default='characteristics.png', help='picture to write')
    add('--names', nargs='+', help='names of the losses; by default as they are given')
    add('--norm', type=float, default=30.0, help='feature norm, where a loss needs it')
    add(
        '--num-classes',
        type=int,
        default=10_000,
        help='of all losses; pull, push and the bias of SphereFace2 depend on it',
    )
    add(
        '--own-angle',
        type=float,
        default=60.0,
        help='of a sample to its own centre, in degrees, where others are looked at',
    )
    add_overrides(parser, 'all configs')
    args = parser.parse_args()

    from mmhyperface.visualization import require_picture

    args.names = args.names or args.losses
    if len(set(args.names)) != len(args.losses):
        raise UserError(
            f'{len(set(args.names))} different names for {len(args.losses)} losses: '
            'give --names, one for each'
        )
    require_picture(args.out)
    return args


def loss_of(source: str, options: dict | None) -> HypersphereLoss:
    from mmhyperface.visualization import loss_of_config, loss_of_text

    if source.endswith('.py'):
        return loss_of_config(load_config(source, options))
    return loss_of_text(source)


def main() -> None:
    args = parse_args()

    from mmhyperface.visualization import (
        characteristics_of,
        draw_characteristics,
        save_figure,
    )

    curves = {
        name: characteristics_of(
            loss_of(source, args.cfg_options),
            norm=args.norm,
            num_classes=args.num_classes,
            own_angle=args.own_angle,
        )
        for name, source in zip(args.names, args.losses, strict=True)
    }
    note = (
        f'{args.num_classes:,} classes, feature norm {args.norm:g}; pull: all other '
        f'centres at 90°; push: own centre at {args.own_angle:g}°, the rest at 90°'
    )
    save_figure(draw_characteristics(curves, note), args.out)
    print(f'{args.out}: {len(curves)} losses')


if __name__ == '__main__':
    with report_errors():
        main()
