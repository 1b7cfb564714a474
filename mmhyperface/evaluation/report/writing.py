"""A report in a folder: written after a test, and read again to compare.

``report.json`` holds all numbers; rates are fractions, other figures in their unit, and
what is not a finite number is null ::

    format        1; another number is another layout
    title         of the report
    date          when it was made, ISO 8601 with the offset from UTC
    config        the config of the test, or null
    checkpoint    what was tested, or null
    versions      {mmhyperface, torch, numpy: version}
    intervals     {draws, level, seed} of the bootstrap over identities
    sets          {test set: {protocol: section}}
    section       {pictures: [{title, file}], rows: {row: figures of a network}}

The protocols are ``1:1``, ``1:N`` and ``MegaFace``; files are paths relative to the
folder. Of each row ::

    finite        false: the embeddings admit no figure, and all figures are null
    convention    how the figures were computed, in words
    counts        {what: how many} of what they stand on
    figures       {name: value}; null: the rate is not resolvable, or as above
    intervals     {name: [low, high]}
    no_intervals  {name: why it has none}, of the other figures that are numbers
    thresholds    [{figure, gallery, value, threshold}]: the operating threshold of
                  a figure, which is the rate that it gives; gallery is null but for
                  1:N, where the figure is the mean over the galleries. That of the
                  accuracy is the median over the folds.
    evidence      the file with the scores, or null

and moreover, if it is finite ::

    accuracy_thresholds  1:1: of each fold
    merged, cmc          1:N: all galleries as one?; rates of ranks 1, 2, …
    distractors          MegaFace: [{asked, used}], used without the noisy ones

Names stand in the order of the test. A newer version may add keys without another
``format``.
"""

import json
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from mmhyperface.utils.errors import UserError

from ..protocols import Result
from .content import FORMAT, Sets, content_of
from .evidence import load_evidence, save_evidence
from .figure_tables import as_markdown, as_page, as_text, sections_of
from .pictures import draw_pictures, file_name

JSON = 'report.json'
TITLE = 'Face recognition test'
OWNED = ('pictures/*.png', 'evidence/*.npz')


@dataclass(frozen=True)
class Report:
    """A report that is written.

    Attributes:
        content: of ``report.json``.
    """

    folder: Path
    content: dict[str, Any]

    def text(self) -> str:
        """All tables, for a terminal or a log."""
        return as_text(self.content, sections_of(self.content))

    def result(self, name: str, protocol: str, row: str) -> Result:
        """What a row's figures stand on.

        Raises:
            UserError: the evidence is missing, damaged, or another test's.
        """
        content = self.content['sets'][name][protocol]['rows'][row]
        if not content.get('finite', True):
            raise UserError(f'{self.folder}: the embeddings of {row!r} are not finite')
        if content['evidence'] is None:
            raise UserError(f'{self.folder}: the report was written without evidence')
        path = self.folder / content['evidence']
        result = load_evidence(path)
        known = {key: x for key, x in content['figures'].items() if x is not None}
        figures = {key: x for key, x in result.figures().items() if key in known}
        if known != figures:
            raise UserError(
                f'{path} is not the evidence of {self.folder / JSON}: their figures '
                'differ; make the report again'
            )
        return result


def write_report(
    sets: Sets,
    folder: str | Path,
    title: str = TITLE,
    config: str | None = None,
    checkpoint: str | None = None,
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
    evidence: bool = True,
) -> Report:
    """Write ``report.md``, ``report.html``, ``report.json`` and what belongs to them.

    The pictures lie in ``pictures/`` as PNG files, and in the page; the evidence in
    ``evidence/`` as npz files. A report that is there already is replaced when the
    new one is complete, and other files of the folder stay.

    Args:
        sets: test set → protocol → row → result. A row is a network or a baseline;
            the last is the one that is tested.
        draws, level, seed: of the intervals, see
            :func:`~mmhyperface.evaluation.intervals.confidence_intervals`; no draws,
            no intervals.
        evidence: keep scores and ranks, without which reports cannot be compared;
            of 15 million pairs they take about 150 MB.
    """
    content = content_of(sets, title, draws, level, seed, config, checkpoint)
    with _replacing_files(Path(folder)) as part:
        for kept in ('pictures', 'evidence'):
            (part / kept).mkdir()
        _add_files(content, sets, part, evidence)
        sections = sections_of(content)
        texts = {
            'report.md': as_markdown(content, sections),
            'report.html': as_page(content, sections, part),
            JSON: json.dumps(content, indent=2, ensure_ascii=False) + '\n',
        }
        for name, text in texts.items():
            (part / name).write_text(text, encoding='utf-8')
    return Report(Path(folder), content)


def report_text(
    sets: Sets,
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
    title: str = TITLE,
) -> str:
    """The tables of a report for a terminal, of which no file is written.

    Args:
        sets, draws, level, seed: as of :func:`write_report`.
    """
    content = content_of(sets, title, draws, level, seed)
    return as_text(content, sections_of(content))


def read_report(path: str | Path) -> Report:
    """The report in a folder, or of a ``report.json``.

    Raises:
        UserError: there is none, it is damaged, or of another format.
    """
    file = Path(path)
    if file.is_dir():
        file /= JSON
    if not file.is_file():
        raise UserError(
            f'there is no report in {path}: expected the folder that a test wrote, or '
            f'its {JSON}'
        )
    if file.suffix != '.json':
        raise UserError(f'{file} cannot be read: give the folder, or the {JSON} in it')
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
        version = content['format']
        sections = sections_of(content) if version == FORMAT else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{file} is damaged, or no report ({error}): test again, or copy it anew'
        ) from None
    if sections is None:
        raise UserError(
            f'{file} has format {version}, this version reads format {FORMAT}: write '
            'the report again'
        )
    return Report(file.parent, content)


def _add_files(
    content: dict[str, Any], sets: Sets, folder: Path, evidence: bool
) -> None:
    numbers = count(1)
    for number, section in enumerate(sections_of(content), 1):
        rows = sets[section.name][section.protocol]
        written = content['sets'][section.name][section.protocol]
        note = '\n'.join(cell.text for cell in section.notes)
        written['pictures'] = draw_pictures(number, section.name, rows, note, folder)
        for row, result in rows.items():
            if evidence and result.finite:
                file = f'evidence/{file_name(next(numbers), section.name, row)}.npz'
                save_evidence(result, folder / file)
                written['rows'][row]['evidence'] = file


@contextmanager
def _replacing_files(target: Path) -> Generator[Path, None, None]:
    """A folder to write a report into that takes the place of an older one at the end.

    Until then nothing in ``target`` changes, and never what is no part of a report.
    Whoever finds the new JSON file, which comes last, finds the rest new as well.
    """
    target.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=target, prefix='.part-'))
    try:
        yield part
        files = [path.relative_to(part) for path in part.rglob('*') if path.is_file()]
        for path in sorted(files, key=lambda path: path == Path(JSON)):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (part / path).replace(target / path)
        for pattern in OWNED:
            for old in target.glob(pattern):
                if old.relative_to(target) not in files:
                    old.unlink()
    finally:
        shutil.rmtree(part, ignore_errors=True)
