"""The tables and notes of a report, and how they look as text and as Markdown.

Made from the content (see :mod:`.content`), so that every number shown is one of
``report.json``; each bears the JSON pointer (RFC 6901) of where it stands there.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from mmhyperface.evaluation.results import NOT_FINITE, NOT_RESOLVABLE

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
            _table(told['rows'], _pointer('sets', name, protocol, 'rows'), level),
            list(_notes(told['rows'], _pointer('sets', name, protocol, 'rows'))),
            told['pictures'],
        )
        for name, protocols in content['sets'].items()
        for protocol, told in protocols.items()
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
        for told in protocols.values()
        for row in told['rows'].values()
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


def percent(rate: float) -> str:
    return f'{100 * rate:.2f}'


def figure_label(name: str) -> str:
    """``'tar@far=1e-03'`` in the words of a table."""
    rate = re.fullmatch(r'(tar|tpir)@(far|fpir)=(.+)', name)
    if rate:
        return f'{rate[1].upper()} at {rate[2].upper()} {rate[3]}'
    rank = re.fullmatch(r'(rank-\d+)@(\d+)', name)
    if rank:
        return f'{rank[1]}, {int(rank[2]):,} distractors'
    known = {'eer': 'EER', 'auc': 'AUC', 'accuracy_std': 'accuracy, std over folds'}
    return known.get(name, name)


def by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """The labels of the figures that share a reason."""
    found: dict[str, list[str]] = {}
    for figure, reason in reasons.items():
        found.setdefault(reason, []).append(figure_label(figure))
    return found


def _pointer(*keys: str | int) -> str:
    return ''.join(f'/{str(key).replace("~", "~0").replace("/", "~1")}' for key in keys)


def _table(rows: dict[str, Any], root: str, level: float) -> Table:
    """All rows of a figure stand together; with one row it needs no name.

    Without intervals it has no column for them.
    """
    drawn = any(row['intervals'] for row in rows.values())
    labels = dict.fromkeys(
        (figure, gallery)
        for row in rows.values()
        for name in row['figures']
        if name != 'accuracy_std'
        for figure, gallery in [(name, None), *_galleries(row, name)]
    )
    lines = []
    for figure, gallery in labels:
        label = figure_label(figure) + (f', {gallery}' if gallery else '')
        for name, row in rows.items():
            cells = _cells(row, root + _pointer(name), figure, gallery)
            if cells:
                rate, interval, threshold = cells
                named = [words(name)] if len(rows) > 1 else []
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


def _galleries(row: dict[str, Any], figure: str) -> list[tuple[str, str]]:
    """A line for each of several galleries; one gallery's is the figure's own."""
    found = [entry for entry in row['thresholds'] if entry['figure'] == figure]
    return [(figure, entry['gallery']) for entry in found] if len(found) > 1 else []


def _cells(
    row: dict[str, Any], root: str, figure: str, gallery: str | None
) -> list[Cell] | None:
    places = [
        number
        for number, entry in enumerate(row['thresholds'])
        if entry['figure'] == figure and gallery in (None, entry['gallery'])
    ]
    if gallery is None:
        if figure not in row['figures']:
            return None
        value, pointer = row['figures'][figure], root + _pointer('figures', figure)
    elif places:
        value = row['thresholds'][places[0]]['value']
        pointer = root + _pointer('thresholds', places[0], 'value')
    else:
        return None
    missing = NOT_RESOLVABLE if row.get('finite', True) else NOT_FINITE
    spans = [_rate(value, pointer, missing)]
    if figure == 'accuracy' and row['figures'].get('accuracy_std') is not None:
        std = row['figures']['accuracy_std']
        spans += [Span(' ± '), _rate(std, root + _pointer('figures', 'accuracy_std'))]
    interval = words('')
    if gallery is None and value is not None and figure in row['intervals']:
        interval = _interval(row['intervals'][figure], root, figure)
    threshold = words('')
    if len(places) == 1 and value is not None:
        threshold = _threshold(row['thresholds'][places[0]], root, places[0])
    return [Cell(tuple(spans)), interval, threshold]


def _rate(value: float | None, pointer: str, missing: str = NOT_RESOLVABLE) -> Span:
    text = missing if value is None else percent(value)
    return Span(text, pointer, value)


def _interval(ends: list[float | None], root: str, figure: str) -> Cell:
    low, high = (
        _rate(end, root + _pointer('intervals', figure, number))
        for number, end in enumerate(ends)
    )
    return Cell((low, Span(' to '), high))


def _threshold(entry: dict[str, Any], root: str, place: int) -> Cell:
    value = entry['threshold']
    text = NO_THRESHOLD if value is None else f'{value:.4f}'
    return Cell((Span(text, root + _pointer('thresholds', place, 'threshold'), value),))


def _notes(rows: dict[str, Any], root: str) -> Iterator[Cell]:
    """Counts, convention and what is missing; of each row where they differ."""
    for make in (_counts, _noisy, _convention, _no_intervals):
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


def _no_intervals(row: dict[str, Any], root: str) -> Cell:
    """By reason; without names where no figure has one."""
    found = by_reason(row['no_intervals'])
    if len(found) == 1 and not row['intervals']:
        return words(f'No intervals: {next(iter(found))}')
    if row['intervals'] and any(_galleries(row, name) for name in row['figures']):
        found[OF_A_GALLERY] = ['single galleries']
    parts = [f'{", ".join(names)} ({reason})' for reason, names in found.items()]
    return words(f'No interval: {"; ".join(parts)}') if parts else Cell(())
