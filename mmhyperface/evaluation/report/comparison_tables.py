"""Compared reports as tables, Markdown and plain data."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..protocols import FigureOfMerit, figure_of
from .comparison import Compared
from .figure_tables import (
    Table,
    by_reason,
    escaped,
    figure_label,
    figure_text,
    section_text,
    table_markdown,
)

FORMAT = 1
PARTS = (
    *('rows', 'conventions', 'figures', 'differences', 'not_comparable'),
    'no_intervals',
)


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
            **{part: getattr(compared, part) for part in PARTS},
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
