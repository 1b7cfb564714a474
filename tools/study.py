"""Do the runs of a study that are missing, and write its table.

A run that has ended is not repeated, and one that was killed goes on from its last
checkpoint: stop the command when you like, and give it again to go on. The table
(table.md, table.csv and pictures in WORK_DIR/STUDY/BASE) is of what there is.
"""

import argparse
import signal
import sys

from mmhyperface.utils.command_line import add_overrides, report_errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('study', help='path of a study, such as configs/studies/NAME.py')
    add('--data', metavar='BASE', help='one of its bases, by default the first')
    add('--gpus', type=int, default=0, help='processes of each run, on GPUs or CPUs')
    add('--workers', type=int, default=1, help='runs at once, one CPU thread each')
    add(
        '--only',
        nargs='+',
        default=[],
        metavar='AXIS=VALUE,VALUE',
        help='do these runs only; the table is of all',
    )
    add('--seeds', nargs='+', type=int, default=[], help="instead of the study's")
    add('--minutes', type=float, help='begin no run after so many')
    add('--retry', action='store_true', help='do failed and diverged runs again')
    add('--table', action='store_true', help='do no run, write the table')
    add('--work-dir', default='work_dirs/studies')
    add_overrides(parser, 'the bases')
    args = parser.parse_args()
    for name in ('gpus', 'workers'):
        if getattr(args, name) < (name == 'workers'):
            parser.error(f'--{name} {getattr(args, name)}: too few')

    from rich.console import Console

    from mmhyperface.studies import perform, read_study, write_tables
    from mmhyperface.utils.paths import require_folder

    console = Console(width=None if sys.stdout.isatty() else 120)
    require_folder(args.work_dir)
    study = read_study(
        args.study, args.work_dir, args.data, args.seeds, args.cfg_options
    )
    runs = study.chosen(args.only)
    # A job that is ended writes the table as one that is interrupted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if not args.table:
            perform(runs, console, args.gpus, args.workers, args.minutes, args.retry)
    finally:
        console.print(write_tables(study), markup=False, soft_wrap=True)


if __name__ == '__main__':
    with report_errors():
        main()
