"""The tables and notes of a report, and how they look as text, Markdown and a page.

Made from the content (see :mod:`.content`), so that every number shown is one of
``report.json``; each bears the JSON pointer (RFC 6901) of where it stands there.
"""

import base64
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ..protocols import NOT_FINITE, NOT_RESOLVABLE, FigureOfMerit, figure_of

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
    spans: tuple[Span, ...] = ()

    @property
    def text(self) -> str:
        return ''.join(span.text for span in self.spans)


class Table:
    """A line for each figure of each row.

    Args:
        titles: [C].
        lines: [L][C].
    """

    def __init__(
        self, titles: Sequence[str], lines: Sequence[Sequence[Cell | str]]
    ) -> None:
        self.titles = list(titles)
        self.lines = [
            [words(cell) if isinstance(cell, str) else cell for cell in line]
            for line in lines
        ]

    @property
    def has_models(self) -> bool:
        return MODEL in self.titles[:2]

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
    sections = []
    for name, protocols in content['sets'].items():
        for protocol, section in protocols.items():
            root = _pointer('sets', name, protocol, 'rows')
            rows = {
                row: _Row(protocol, values, root + _pointer(row))
                for row, values in section['rows'].items()
            }
            table, notes = _table(protocol, rows, level), list(_notes(rows))
            sections.append(Section(name, protocol, table, notes, section['pictures']))
    return sections


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
    return '\n'.join([title, table_text(table), *wrapped])


def as_markdown(content: dict[str, Any], sections: Sequence[Section]) -> str:
    parts = [f'# {escaped(content["title"])}', *map(escaped, facts(content))]
    for section in sections:
        parts += [
            f'## {escaped(section.title)}',
            table_markdown(section.table),
            *(escaped(note.text) for note in section.notes),
            *(f'![{escaped(p["title"])}]({p["file"]})' for p in section.pictures),
        ]
    parts += ['---', *reading(content), ABOUT_FILES]
    return '\n\n'.join(parts) + '\n'


def as_page(content: dict[str, Any], sections: Sequence[Section], folder: Path) -> str:
    """HTML without scripts that needs no other file and no network.

    Each number is a ``data`` element: its value is that of ``report.json``, where
    the pointer of its attribute ``data-json`` (RFC 6901) leads.

    Args:
        folder: of the pictures.
    """

    def inlined(file: str) -> str:
        data = base64.b64encode((folder / file).read_bytes()).decode()
        return f'data:image/png;base64,{data}'

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    template = environment.get_template('report.html.jinja')
    return template.render(
        title=content['title'],
        facts=facts(content),
        reading=[*reading(content), ABOUT_FILES],
        sections=sections,
        inlined=inlined,
    )


def facts(content: dict[str, Any]) -> list[str]:
    """When, of what, and with which versions the report was made; what is known."""
    versions = ', '.join(f'{name} {x}' for name, x in content['versions'].items())
    known = {name: content[name] for name in ('date', 'config', 'checkpoint')}
    known['versions'] = versions
    return [f'{name}: {x}' for name, x in known.items() if x]


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


def table_text(table: Table, style: box.Box = box.ASCII2) -> str:
    shown = RichTable(box=style)
    for number, title in enumerate(table.titles):
        named = number == 0 or title == MODEL
        shown.add_column(
            Text(title), justify='left' if named else 'right', no_wrap=True
        )
    for line in table.lines:
        shown.add_row(*(Text(cell.text) for cell in line))
    text = StringIO()
    Console(file=text, width=TABLE_WIDTH, color_system=None).print(shown)
    # Markdown's box has lines of spaces above and below.
    return '\n'.join(line for line in text.getvalue().splitlines() if line.strip())


def table_markdown(table: Table) -> str:
    titles = map(escaped, table.titles)
    lines = [[escaped(cell.text) for cell in line] for line in table.lines]
    return table_text(Table(list(titles), lines), box.MARKDOWN)


def escaped(text: str) -> str:
    """What Markdown and HTML would take for a mark, as it is."""
    return re.sub(r'([\\`*_\[\]<>|#~&])', r'\\\1', ' '.join(text.split()))


def figure_text(figure: FigureOfMerit, value: float | None, finite: bool = True) -> str:
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


@dataclass(frozen=True)
class _Row:
    """What a report tells of one network, and the pointer to it."""

    protocol: str
    content: dict[str, Any]
    pointer: str

    def span(self, write: Callable[[Any], str], *keys: str | int) -> Span:
        """The value that the keys lead to, as it is written."""
        value: Any = self.content
        for key in keys:
            value = value[key]
        return Span(write(value), self.pointer + _pointer(*keys), value)

    def galleries(self, name: str) -> list[str]:
        """A line for each of several galleries; one gallery's is the figure's own."""
        entries = [x for x in self.content['thresholds'] if x['figure'] == name]
        return [entry['gallery'] for entry in entries] if len(entries) > 1 else []

    def cells(
        self, figure: FigureOfMerit, name: str, gallery: str | None
    ) -> list[Cell]:
        """Value, interval and threshold; nothing if the row has no such figure."""
        figures = self.content['figures']
        places = [
            number
            for number, entry in enumerate(self.content['thresholds'])
            if entry['figure'] == name and gallery in (None, entry['gallery'])
        ]
        if gallery is None and name in figures:
            keys: tuple[str | int, ...] = 'figures', name
        elif gallery is not None and places:
            keys = 'thresholds', places[0], 'value'
        else:
            return []
        finite = self.content.get('finite', True)
        value = [self.span(partial(figure_text, figure, finite=finite), *keys)]
        known = value[0].value is not None
        write = partial(figure_text, figure)
        if figures.get(figure.spread) is not None:
            value += [Span(' ± '), self.span(write, 'figures', str(figure.spread))]
        interval: list[Span] = []
        if gallery is None and known and name in self.content['intervals']:
            low, high = (self.span(write, 'intervals', name, end) for end in (0, 1))
            interval = [low, Span(' to '), high]
        threshold: list[Span] = []
        if len(places) == 1 and known:
            threshold = [self.span(_threshold, 'thresholds', places[0], 'threshold')]
        return [Cell(tuple(spans)) for spans in (value, interval, threshold)]

    def notes(self) -> Iterator[Cell]:
        """Counts, distractors if only some are left, convention, and what is missing.

        Each may be empty.
        """
        counts = [
            [self.span('{:,}'.format, 'counts', what), Span(f' {what}')]
            for what in self.content['counts']
        ]
        yield _listed(counts)
        clean = [
            [
                self.span('{:,}'.format, 'distractors', number, 'used'),
                Span(f' of {entry["asked"]:,}'),
            ]
            for number, entry in enumerate(self.content.get('distractors', []))
            if entry['used'] != entry['asked']
        ]
        yield _listed(clean, 'Distractors without the noisy ones: ')
        yield words(f'Convention: {self.content["convention"]}')
        yield words(self._no_intervals())

    def _no_intervals(self) -> str:
        """By reason; without names where no figure has one."""
        labels = by_reason(self.protocol, self.content['no_intervals'])
        if not self.content['intervals']:
            if len(labels) == 1:
                return f'No intervals: {next(iter(labels))}'
        elif any(map(self.galleries, self.content['figures'])):
            labels[OF_A_GALLERY] = ['single galleries']
        parts = [f'{", ".join(names)} ({reason})' for reason, names in labels.items()]
        return f'No interval: {"; ".join(parts)}' if parts else ''


def _table(protocol: str, rows: Mapping[str, _Row], level: float) -> Table:
    """All rows of a figure stand together; with one row it needs no name.

    Without intervals it has no column for them.
    """
    drawn = any(row.content['intervals'] for row in rows.values())
    named = len(rows) > 1
    keys = dict.fromkeys(
        (name, gallery)
        for row in rows.values()
        for name in row.content['figures']
        for gallery in [None, *row.galleries(name)]
    )
    figures = {name: figure_of(protocol, name) for name, _ in keys}
    spreads = {figure.spread for figure in figures.values()}
    lines: list[list[Cell | str]] = []
    for name, gallery in keys:
        if name in spreads:
            continue
        label = figures[name].label_of(name) + (f', {gallery}' if gallery else '')
        for row_name, row in rows.items():
            cells = row.cells(figures[name], name, gallery)
            if cells:
                value, interval, threshold = cells
                between = [interval] if drawn else []
                model = [row_name] if named else []
                lines.append([label, *model, value, *between, threshold])
    titles = [
        *('figure', *([MODEL] if named else []), '%'),
        *([f'{level:g} % interval'] if drawn else []),
        'threshold',
    ]
    return Table(titles, lines)


def _notes(rows: Mapping[str, _Row]) -> Iterator[Cell]:
    """All notes, of each row where they differ."""
    for cells in zip(*(row.notes() for row in rows.values()), strict=True):
        if len({cell.text for cell in cells}) == 1:
            named = [cells[-1]]
        else:
            named = [
                Cell((Span(f'{name}: '), *cell.spans)) if cell.text else cell
                for name, cell in zip(rows, cells, strict=True)
            ]
        yield from (cell for cell in named if cell.text)


def _threshold(value: float | None) -> str:
    return NO_THRESHOLD if value is None else f'{value:.4f}'


def _listed(items: Sequence[Sequence[Span]], before: str = '') -> Cell:
    """Items with commas between them; empty if there are none."""
    spans = [Span(before)] if items and before else []
    for number, item in enumerate(items):
        spans += [Span(', '), *item] if number else item
    return Cell(tuple(spans))
