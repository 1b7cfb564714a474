"""The tables and notes of a report, and how they look as text and as Markdown.

Made from the content (see :mod:`.content`), so that every number shown is one of
``report.json``; each bears the JSON pointer (RFC 6901) of where it stands there.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import StringIO
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ..protocols import NOT_FINITE, NOT_RESOLVABLE, Figure, figure_of

NO_THRESHOLD = 'none'  # accepts everything, or nothing

MODEL = 'model'  # title of the column that tells rows apart
ABOUT_FILES = (
    'All digits are in report.json. tools/analysis_tools/compare.py sets reports '
    'side by side.'
)
OF_A_GALLERY = 'only the mean over the galleries is drawn again'
TEXT_WIDTH = 120
TABLE_WIDTH = 10_000  # a limit; a table is as wide as its columns


@dataclass(frozen=True)
class Span:
    """Words, or a number with its pointer into the content and its exact value."""

    text: str
    pointer: str | None = None
    value: float | None = None


@dataclass(frozen=True)
class Cell:
    spans: tuple[Span, ...]

    @property
    def text(self) -> str:
        return ''.join(span.text for span in self.spans)


@dataclass(frozen=True)
class Table:
    """A line for each figure of each row; ``titles`` [C], ``lines`` [L][C]."""

    titles: list[Cell]
    lines: list[list[Cell]]

    @property
    def has_models(self) -> bool:
        return MODEL in (title.text for title in self.titles[:2])

    @property
    def groups(self) -> list[tuple[str, list[list[Cell]]]]:
        """The lines of each figure, without their first cell, its label."""
        return [
            (label, [line[1:] for line in lines])
            for label, lines in groupby(self.lines, lambda line: line[0].text)
        ]


@dataclass(frozen=True)
class Section:
    """One protocol on one test set."""

    name: str
    protocol: str
    table: Table
    notes: list[Cell]
    pictures: list[dict[str, str]]

    @property
    def title(self) -> str:
        return f'{self.name}, {self.protocol}'


def words(text: str) -> Cell:
    return Cell((Span(text),))


def sections_of(content: dict[str, Any]) -> list[Section]:
    level = 100 * content['intervals']['level']
    return [
        Section(
            name,
            protocol,
            _table(protocol, section['rows'], root, level),
            list(_notes(protocol, section['rows'], root)),
            section['pictures'],
        )
        for name, protocols in content['sets'].items()
        for protocol, section in protocols.items()
        for root in [_pointer('sets', name, protocol, 'rows')]
    ]


def as_text(content: dict[str, Any], sections: Sequence[Section]) -> str:
    """For a terminal or a log."""
    parts = [content['title']]
    parts += [
        section_text(
            section.title, section.table, [note.text for note in section.notes]
        )
        for section in sections
    ]
    parts.append('\n'.join(textwrap.fill(x, TEXT_WIDTH) for x in reading(content)))
    return '\n\n'.join(parts)


def section_text(title: str, table: Table, notes: Sequence[str]) -> str:
    wrapped = (textwrap.fill(note, TEXT_WIDTH) for note in notes)
    return '\n'.join([title, table_text(table, box.ASCII2), *wrapped])


def as_markdown(content: dict[str, Any], sections: Sequence[Section]) -> str:
    parts = [f'# {escaped(content["title"])}', *map(escaped, facts(content).values())]
    for section in sections:
        parts += [
            f'## {escaped(section.title)}',
            table_markdown(section.table),
            *(escaped(note.text) for note in section.notes),
            *(f'![{escaped(p["title"])}]({p["file"]})' for p in section.pictures),
        ]
    parts += ['---', *reading(content), ABOUT_FILES]
    return '\n\n'.join(parts) + '\n'


def facts(content: dict[str, Any]) -> dict[str, str]:
    """When, of what, and with which versions the report was made; what is known."""
    versions = ', '.join(f'{name} {x}' for name, x in content['versions'].items())
    lines = {
        'date': content['date'],
        'config': content['config'],
        'checkpoint': content['checkpoint'],
        'versions': versions,
    }
    return {name: f'{name}: {line}' for name, line in lines.items() if line}


def reading(content: dict[str, Any]) -> list[str]:
    """What the numbers mean, in sentences."""
    drawn = content['intervals']
    lines = [
        f'Rates are in percent; {NOT_RESOLVABLE}: fewer comparisons of different '
        'people than it takes to tell so low a rate.',
        'Threshold: what a score has to exceed to be accepted at this rate; of the '
        'accuracy what it has to reach, the median over the folds; '
        f'{NO_THRESHOLD}: it accepts everything, or nothing.',
    ]
    if any(
        not row.get('finite', True)
        for protocols in content['sets'].values()
        for section in protocols.values()
        for row in section['rows'].values()
    ):
        lines.append(
            f'{NOT_FINITE}: embeddings are zero, NaN or infinite, or all alike.'
        )
    if drawn['draws']:
        lines.append(
            f'Intervals: bootstrap over identities, {drawn["draws"]:,} draws from seed '
            f'{drawn["seed"]}.'
        )
    return lines


def table_text(table: Table, style: box.Box) -> str:
    shown = RichTable(box=style)
    for number, title in enumerate(table.titles):
        named = number == 0 or title.text == MODEL
        shown.add_column(
            Text(title.text), justify='left' if named else 'right', no_wrap=True
        )
    for line in table.lines:
        shown.add_row(*(Text(cell.text) for cell in line))
    text = StringIO()
    Console(file=text, width=TABLE_WIDTH, color_system=None).print(shown)
    # Markdown's box has lines of spaces above and below.
    return '\n'.join(line for line in text.getvalue().splitlines() if line.strip())


def table_markdown(table: Table) -> str:
    def escape(line: list[Cell]) -> list[Cell]:
        return [words(escaped(cell.text)) for cell in line]

    lines = [escape(line) for line in table.lines]
    return table_text(Table(escape(table.titles), lines), box.MARKDOWN)


def escaped(text: str) -> str:
    """What Markdown and HTML would take for a mark, as it is."""
    return re.sub(r'([\\`*_\[\]<>|#~&])', r'\\\1', ' '.join(text.split()))


def figure_text(figure: Figure, value: float | None, finite: bool = True) -> str:
    """The value in its unit, or why there is none; not if the result is not finite."""
    if value is None:
        return NOT_RESOLVABLE if finite else NOT_FINITE
    return figure.unit.text(value)


def figure_label(protocol: str, name: str) -> str:
    """``'tar@far=1e-03'`` in the words of a table."""
    return figure_of(protocol, name).label_of(name)


def by_reason(protocol: str, reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """The labels of the figures that share a reason."""
    labels: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        labels.setdefault(reason, []).append(figure_label(protocol, name))
    return labels


def _pointer(*keys: str | int) -> str:
    return ''.join(f'/{str(key).replace("~", "~0").replace("/", "~1")}' for key in keys)


def _table(protocol: str, rows: dict[str, Any], root: str, level: float) -> Table:
    """All rows of a figure stand together; with one row it needs no name.

    Without intervals it has no column for them.
    """
    drawn = any(row['intervals'] for row in rows.values())
    names = dict.fromkeys(name for row in rows.values() for name in row['figures'])
    figures = {name: figure_of(protocol, name) for name in names}
    spreads = {figure.spread for figure in figures.values()}
    keys = dict.fromkeys(
        (name, gallery)
        for row in rows.values()
        for name in row['figures']
        if name not in spreads
        for gallery in [None, *_galleries(row, name)]
    )
    lines = []
    for name, gallery in keys:
        figure = figures[name]
        label = figure.label_of(name) + (f', {gallery}' if gallery else '')
        for row_name, row in rows.items():
            cells = _cells(figure, row, root + _pointer(row_name), name, gallery)
            if cells:
                rate, interval, threshold = cells
                named = [words(row_name)] if len(rows) > 1 else []
                between = [interval] if drawn else []
                lines.append([words(label), *named, rate, *between, threshold])
    titles = [
        'figure',
        *([MODEL] if len(rows) > 1 else []),
        '%',
        *([f'{level:g} % interval'] if drawn else []),
        'threshold',
    ]
    return Table([words(title) for title in titles], lines)


def _galleries(row: dict[str, Any], name: str) -> list[str]:
    """A line for each of several galleries; one gallery's is the figure's own."""
    entries = [entry for entry in row['thresholds'] if entry['figure'] == name]
    return [entry['gallery'] for entry in entries] if len(entries) > 1 else []


def _cells(
    figure: Figure, row: dict[str, Any], root: str, name: str, gallery: str | None
) -> list[Cell] | None:
    """Value, interval and threshold; None if the row has no such figure."""
    places = [
        number
        for number, entry in enumerate(row['thresholds'])
        if entry['figure'] == name and gallery in (None, entry['gallery'])
    ]
    figures = row['figures']
    if gallery is None:
        if name not in figures:
            return None
        value, pointer = figures[name], root + _pointer('figures', name)
    elif places:
        value = row['thresholds'][places[0]]['value']
        pointer = root + _pointer('thresholds', places[0], 'value')
    else:
        return None
    spans = [Span(figure_text(figure, value, row.get('finite', True)), pointer, value)]
    spread = figures.get(figure.spread)
    if spread is not None:
        pointer = root + _pointer('figures', str(figure.spread))
        spans += [Span(' ± '), Span(figure.unit.text(spread), pointer, spread)]
    interval = words('')
    if gallery is None and value is not None and name in row['intervals']:
        low, high = (
            Span(figure_text(figure, end), root + _pointer('intervals', name, i), end)
            for i, end in enumerate(row['intervals'][name])
        )
        interval = Cell((low, Span(' to '), high))
    threshold = words('')
    if len(places) == 1 and value is not None:
        threshold = _threshold(row['thresholds'][places[0]], root, places[0])
    return [Cell(tuple(spans)), interval, threshold]


def _threshold(entry: dict[str, Any], root: str, place: int) -> Cell:
    value = entry['threshold']
    text = NO_THRESHOLD if value is None else f'{value:.4f}'
    return Cell((Span(text, root + _pointer('thresholds', place, 'threshold'), value),))


def _notes(protocol: str, rows: dict[str, Any], root: str) -> Iterator[Cell]:
    """Counts, convention and what is missing; of each row where they differ."""
    no_intervals = partial(_no_intervals, protocol)
    for make in (_counts, _noisy, _convention, no_intervals):
        notes = {name: make(row, root + _pointer(name)) for name, row in rows.items()}
        alike = len({cell.text for cell in notes.values()}) == 1
        for name, cell in list(notes.items())[-1:] if alike else notes.items():
            if cell.spans:
                yield cell if alike else Cell((Span(f'{name}: '), *cell.spans))


def _counts(row: dict[str, Any], root: str) -> Cell:
    spans = [
        Span(f'{count:,}', root + _pointer('counts', what), count)
        for what, count in row['counts'].items()
    ]
    names = [Span(f' {what}') for what in row['counts']]
    return _listed([[count, name] for count, name in zip(spans, names, strict=True)])


def _noisy(row: dict[str, Any], root: str) -> Cell:
    """Of distractors only some may be left."""
    spans = [
        [
            Span(
                f'{e["used"]:,}', root + _pointer('distractors', i, 'used'), e['used']
            ),
            Span(f' of {e["asked"]:,}'),
        ]
        for i, e in enumerate(row.get('distractors', []))
        if e['used'] != e['asked']
    ]
    if not spans:
        return Cell(())
    return Cell((Span('Distractors without the noisy ones: '), *_listed(spans).spans))


def _listed(items: list[list[Span]]) -> Cell:
    spans: list[Span] = []
    for item in items:
        spans += [Span(', '), *item] if spans else item
    return Cell(tuple(spans))


def _convention(row: dict[str, Any], root: str) -> Cell:
    return words(f'Convention: {row["convention"]}')


def _no_intervals(protocol: str, row: dict[str, Any], root: str) -> Cell:
    """By reason; without names where no figure has one."""
    labels = by_reason(protocol, row['no_intervals'])
    if len(labels) == 1 and not row['intervals']:
        return words(f'No intervals: {next(iter(labels))}')
    if row['intervals'] and any(_galleries(row, name) for name in row['figures']):
        labels[OF_A_GALLERY] = ['single galleries']
    parts = [f'{", ".join(names)} ({reason})' for reason, names in labels.items()]
    return words(f'No interval: {"; ".join(parts)}') if parts else Cell(())
