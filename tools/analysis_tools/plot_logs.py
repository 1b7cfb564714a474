"""Plot what trainings logged, several side by side.

    python tools/analysis_tools/plot_logs.py work_dirs/a work_dirs/b \
        --keys loss lr accuracy --smooth 0.9
"""

import argparse
from pathlib import Path

from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('logs', nargs='+', metavar='LOG', help='work dirs, runs in them, scalars.json')
    add(
        '--keys',
        nargs='+',
        default=['loss', 'lr'],
        help='what to plot; accuracy stands for that of all test sets (default: loss '
        'lr)',
    )
    add('--out', default='logs.png', help='picture to write')
    add('--names', nargs='+', help='of the trainings; by default as they are given')
    add(
        '--smooth',
        type=float,
        default=0.0,
        metavar='W',
        help='draw running means that forget by this factor per point, in [0, 1)',
    )
    args = parser.parse_args()

    from mmhyperface.visualization import require_picture

    if not 0 <= args.smooth < 1:
        raise UserError(f'--smooth is a factor in [0, 1), got {args.smooth:g}')
    args.names = args.names or [name_of(log) for log in args.logs]
    if len(set(args.names)) != len(args.logs):
        raise UserError(
            f'{len(set(args.names))} different names for {len(args.logs)} logs: give '
            '--names, one for each'
        )
    require_picture(args.out)
    return args


def name_of(log: str) -> str:
    """As it is given, without what all of them have at their end."""
    path = Path(log)
    parts = path.parts[:-1] if path.name == 'scalars.json' else path.parts
    parts = parts[:-1] if parts and parts[-1] == 'vis_data' else parts
    return str(Path(*parts)) if parts else log


def main() -> None:
    args = parse_args()

    from mmhyperface.visualization import draw_logs, keys_of, read_log, save_figure

    logs = {
        name: read_log(log) for name, log in zip(args.names, args.logs, strict=True)
    }
    keys = keys_of(logs, args.keys)
    save_figure(draw_logs(logs, keys, args.smooth), args.out)
    print(f'{args.out}: {", ".join(keys)} of {len(logs)} trainings')


if __name__ == '__main__':
    with report_errors():
        main()
