"""Reports side by side, with the significance of their differences; as tables and data.

Each is compared with the first that has the same test set and protocol. A difference
is drawn over identities for both at once, so their evidence must be of the same
comparisons of the same people; where it is not, the figures stand beside each other
without it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmhyperface.utils.errors import UserError

from ..intervals import paired_differences, unlike
from ..protocols import FigureOfMerit, Result, figure_of
from ..protocols.base import finite
from .figure_tables import (
    Table,
    by_reason,
    escaped,
    figure_label,
    figure_text,
    section_text,
    table_markdown,
)
from .writing import Report

FORMAT = 1


@dataclass
class Compared:
    """One protocol on one test set in several reports.

    Attributes:
        names: of the reports that have it.
        rows: the row that was taken of each.
        figures: figure → report → value, of figures that two or more share.
        differences: figure → report → {value, low, high, p_value} to the first.
        not_comparable: report → why there are no differences.
        no_intervals: figure → why its differences have none.
        conventions: of each report.
        evidence: whether a report has it.
        finite: whether the embeddings of a report's row were.
    """

    name: str
    protocol: str
    names: list[str]
    rows: dict[str, str]
    figures: dict[str, dict[str, float | None]]
    conventions: dict[str, str]
    evidence: dict[str, bool]
    finite: dict[str, bool]
    differences: dict[str, dict[str, dict[str, float | None]]] = field(
        default_factory=dict
    )
    not_comparable: dict[str, str] = field(default_factory=dict)
    no_intervals: dict[str, str] = field(default_factory=dict)

    @property
    def num_tests(self) -> int:
        return sum(
            entry['p_value'] is not None
            for of_figure in self.differences.values()
            for entry in of_figure.values()
        )


def compare(
    reports: Mapping[str, Report],
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    row: str | None = None,
) -> list[Compared]:
    """Compare what two or more reports have.

    Args:
        reports: by the name of their column.
        row: of a report; by default its last, which is the network that was tested.

    Raises:
        UserError: no two reports have a test set and protocol in common, or evidence
            is damaged.
    """
    comparisons = []
    for name, protocol in _shared(reports):
        having = {
            key: report
            for key, report in reports.items()
            if _row(report, name, protocol, row) is not None
        }
        if len(having) > 1:
            comparisons.append(_compared(having, name, protocol, row))
            _add_differences(comparisons[-1], having, draws, level, seed)
    if not comparisons:
        raise UserError(
            'no two of these reports have a test set and a protocol in common'
            + (f', with a row {row!r}' if row else '')
            + ': '
            + '; '.join(f'{key}: {_sets(report)}' for key, report in reports.items())
        )
    return comparisons


def _shared(reports: Mapping[str, Report]) -> list[tuple[str, str]]:
    every = [
        (name, protocol)
        for report in reports.values()
        for name, protocols in report.content['sets'].items()
        for protocol in protocols
    ]
    return [key for key in dict.fromkeys(every) if every.count(key) > 1]


def _sets(report: Report) -> str:
    sets = report.content['sets']
    return ', '.join(f'{name} ({"; ".join(sets[name])})' for name in sets) or 'none'


def _row(report: Report, name: str, protocol: str, row: str | None) -> str | None:
    rows = report.content['sets'].get(name, {}).get(protocol, {}).get('rows', {})
    if row is not None:
        return row if row in rows else None
    return next(reversed(rows), None)


def _compared(
    reports: Mapping[str, Report], name: str, protocol: str, row: str | None
) -> Compared:
    taken, rows = {}, {}
    for key, report in reports.items():
        taken[key] = str(_row(report, name, protocol, row))
        rows[key] = report.content['sets'][name][protocol]['rows'][taken[key]]
    figures: dict[str, dict[str, float | None]] = {}
    for key, content in rows.items():
        for figure, value in content['figures'].items():
            figures.setdefault(figure, {})[key] = value
    return Compared(
        name=name,
        protocol=protocol,
        names=list(reports),
        rows=taken,
        figures={f: values for f, values in figures.items() if len(values) > 1},
        conventions={key: x['convention'] for key, x in rows.items()},
        evidence={key: x['evidence'] is not None for key, x in rows.items()},
        finite={key: x.get('finite', True) for key, x in rows.items()},
    )


def _add_differences(
    compared: Compared,
    reports: Mapping[str, Report],
    draws: int,
    level: float,
    seed: int,
) -> None:
    """One pair of results at a time, for many millions of scores are large."""
    first, *others = compared.names
    if not compared.evidence[first]:
        compared.not_comparable = dict.fromkeys(
            others, f'{first} {_without(compared, first)}'
        )
        return
    base = _result(compared, reports, first)
    spreads = {figure.spread for figure in base.FIGURES}
    for name in others:
        if not compared.evidence[name]:
            compared.not_comparable[name] = f'it {_without(compared, name)}'
            continue
        result = _result(compared, reports, name)
        reason = unlike(base, result) or base.unknown_identities()
        if reason is not None:
            compared.not_comparable[name] = reason
            continue
        drawn = paired_differences([base, result], draws, level, seed)
        for figure, of_figure in drawn.items():
            compared.differences.setdefault(figure, {})[name] = {
                key: finite(x) for key, x in of_figure[-1]._asdict().items()
            }
        for figure, values in compared.figures.items():
            known = None not in (values.get(first), values.get(name))
            entry = compared.differences.get(figure, {}).get(name, {})
            drawn_again = entry.get('p_value') is not None
            if known and not drawn_again and figure not in spreads:
                compared.no_intervals[figure] = base.why_no_interval(figure)


def _without(compared: Compared, name: str) -> str:
    if compared.finite[name]:
        return 'was written without evidence'
    return 'has embeddings that are not finite'


def _result(compared: Compared, reports: Mapping[str, Report], key: str) -> Result:
    return reports[key].result(compared.name, compared.protocol, compared.rows[key])


def comparison_json(
    comparisons: Sequence[Compared],
    names: Sequence[str],
    draws: int,
    level: float,
    seed: int,
) -> dict[str, Any]:
    """Plain data; what is not a finite number is None."""
    sets: dict[str, Any] = {}
    for compared in comparisons:
        sets.setdefault(compared.name, {})[compared.protocol] = {
            'first': compared.names[0],
            'rows': compared.rows,
            'conventions': compared.conventions,
            'figures': compared.figures,
            'differences': compared.differences,
            'not_comparable': compared.not_comparable,
            'no_intervals': compared.no_intervals,
            'lower_is_better': [
                name
                for name in compared.figures
                if figure_of(compared.protocol, name).lower_is_better
            ],
        }
    return {
        'format': FORMAT,
        'names': list(names),
        'intervals': {'draws': draws, 'level': level, 'seed': seed},
        'sets': sets,
    }


def comparison_table(compared: Compared) -> Table:
    first, *others = compared.names
    others = [name for name in others if name not in compared.not_comparable]
    titles = [
        'figure',
        *(f'{name} %' for name in compared.names),
        *(f'{name} - {first}' for name in others),
    ]
    lines = []
    for key, values in compared.figures.items():
        figure = figure_of(compared.protocol, key)
        differences = compared.differences.get(key, {})
        lines.append(
            [
                figure.label_of(key),
                *(
                    figure_text(figure, values[name], compared.finite[name])
                    if name in values
                    else ''
                    for name in compared.names
                ),
                *(_difference(figure, differences.get(name)) for name in others),
            ]
        )
    return Table(titles, lines)


def comparison_notes(compared: Compared, level: float) -> list[str]:
    """What has to be known to read the table."""
    notes = []
    if compared.differences:
        others = [
            figure_label(compared.protocol, name)
            for name in compared.differences
            if figure_of(compared.protocol, name).unit.name
        ]
        units = f', {", ".join(others)} as it is,' if others else ''
        notes.append(
            f'Differences in percentage points{units} with their {100 * level:g} % '
            'interval, bootstrap over identities, both resampled together.'
        )
        count = compared.num_tests
        notes.append(
            f'p is of each difference by itself. {count} stand here, and one in twenty '
            'has p < 0.05 where there is none; for all at once ask for '
            f'p < {0.05 / max(count, 1):.2g}.'
        )
    notes += [
        f'No significance of {", ".join(names)}: {reason}.'
        for reason, names in by_reason(compared.protocol, compared.no_intervals).items()
    ]
    for name, reason in compared.not_comparable.items():
        notes.append(f'No significance of {name}: {reason}.')
    if len(set(compared.conventions.values())) == 1:
        notes.append(f'Convention: {compared.conventions[compared.names[0]]}')
    else:
        notes.append('The conventions differ, and so do figures for that alone.')
        notes += [f'{name}: {words}' for name, words in compared.conventions.items()]
    return notes


def comparison_text(comparisons: Sequence[Compared], level: float) -> str:
    """For a terminal."""
    return '\n\n'.join(
        section_text(
            f'{compared.name}, {compared.protocol}',
            comparison_table(compared),
            comparison_notes(compared, level),
        )
        for compared in comparisons
    )


def comparison_markdown(comparisons: Sequence[Compared], level: float) -> str:
    parts = ['# Comparison']
    for compared in comparisons:
        parts += [
            f'## {escaped(compared.name)}, {compared.protocol}',
            table_markdown(comparison_table(compared)),
            *(escaped(note) for note in comparison_notes(compared, level)),
        ]
    return '\n\n'.join(parts) + '\n'


def _difference(figure: FigureOfMerit, entry: Mapping[str, float | None] | None) -> str:
    if entry is None or entry['value'] is None:
        return ''
    text = figure.unit.text(entry['value'], '+')
    low, high = entry['low'], entry['high']
    if low is not None and high is not None:
        text += f' ({figure.unit.text(low, "+")} to {figure.unit.text(high, "+")})'
    if entry['p_value'] is not None:
        text += f', p = {entry["p_value"]:.2g}'
    return text
