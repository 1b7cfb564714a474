"""Set the reports of two or more tests side by side, with what their differences mean.

    python tools/analysis_tools/compare.py work_dirs/a/report work_dirs/b/report

Each is compared with the first. Differences have an interval and a p-value where both
tests were of the same pairs or probes and the list tells who is on the images.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.paths import require_file

if TYPE_CHECKING:
    from mmhyperface.evaluation.report import Compared


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('reports', nargs='+', help='folders of reports, or their report.json')
    add('--names', nargs='+', help='names of the columns; by default of the folders')
    add('--row', help='of the tables; by default the last, the network that was tested')
    add('--draws', type=int, default=1000, help='of the bootstrap over identities')
    add('--level', type=float, default=0.95, help='of the intervals')
    add('--seed', type=int, default=0, help='of the draws')
    add('--out', type=Path, help='write the comparison to this .md or .json file')
    args = parser.parse_args()
    if len(args.reports) < 2:
        raise UserError('give at least two reports to compare')
    if args.names is None:
        args.names = column_names(args.reports)
    if len(args.names) != len(args.reports):
        raise UserError(
            f'{len(args.names)} names for {len(args.reports)} reports: one for each'
        )
    twice = [name for name, count in Counter(args.names).items() if count > 1]
    if twice:
        raise UserError(f'two columns have the name {twice[0]!r}: give other --names')
    if args.out:
        if args.out.suffix not in ('.md', '.json'):
            raise UserError(f'--out takes a .md or .json file, got {args.out}')
        require_file(args.out)
    return args


def column_names(reports: list[str]) -> list[str]:
    """As many of the last folders' names as tell the reports apart.

    Raises:
        UserError: nothing does.
    """
    folders = [Path(report).resolve() for report in reports]
    folders = [path.parent if path.name == 'report.json' else path for path in folders]
    # Every test names its folder so.
    folders = [path.parent if path.name == 'report' else path for path in folders]
    depths = [path.parts[1:] or path.parts for path in folders]
    for depth in range(1, max(map(len, depths)) + 1):
        names = ['/'.join(parts[-depth:]) for parts in depths]
        if len(set(names)) == len(names):
            return names
    twice = next(path for path in folders if folders.count(path) > 1)
    raise UserError(f'a report of {twice} is given twice: give --names')


def written(args: argparse.Namespace, comparisons: list[Compared]) -> str:
    from mmhyperface.evaluation.report import comparison_json, comparison_markdown

    if args.out.suffix == '.md':
        return comparison_markdown(comparisons, args.level)
    drawn = (args.draws, args.level, args.seed)
    content = comparison_json(comparisons, args.names, *drawn)
    return json.dumps(content, indent=2, ensure_ascii=False) + '\n'


def main() -> None:
    args = parse_args()

    from mmhyperface.evaluation.report import compare, comparison_text, read_report

    reports = map(read_report, args.reports)
    comparisons = compare(
        dict(zip(args.names, reports, strict=True)),
        args.draws,
        args.level,
        args.seed,
        args.row,
    )
    print(comparison_text(comparisons, args.level))
    if args.out:
        args.out.write_text(written(args, comparisons), encoding='utf-8')


if __name__ == '__main__':
    with report_errors():
        main()
