"""Print a config as it is used: with what it inherits, and with overrides."""

import argparse

from mmhyperface.engine.launch import load_config
from mmhyperface.utils.command_line import Overrides, report_errors
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.paths import require_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config, or PACKAGE::FILE')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Overrides,
        help='override entries of the config: a.b=1 c.d=[x,y]',
    )
    parser.add_argument(
        '--save', metavar='FILE', help='write it to a config file, FILE.py, too'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from mmhyperface.utils.atomic_files import new_files

    if args.save:
        require_file(args.save)
        if not args.save.endswith('.py'):
            raise UserError(f'--save {args.save}: name a config file, FILE.py')
    text = load_config(args.config, args.cfg_options).pretty_text
    if args.save:
        with new_files([args.save], overwrite=True) as (file,):
            file.write(text.encode())
    # Not rich, which breaks long lines: what is printed is a config, too.
    print(text, end='')


if __name__ == '__main__':
    with report_errors():
        main()
