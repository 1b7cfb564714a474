"""The meta files of IJB-B and IJB-C, as insightface distributes them.

``PREFIX`` is ijbb or ijbc. Lines of the two lists of images belong together.

- ``PREFIX_name_5pts_score.txt``: ``1.jpg x1 y1 … x5 y5 score``, the five landmarks in
  pixels of the loose crop and how sure the detector was;
- ``PREFIX_face_tid_mid.txt``: ``1.jpg template media``;
- ``PREFIX_template_pair_label.txt``: ``template template label``, 1 = one person;
- ``PREFIX_1N_gallery_S1.csv`` and ``…S2.csv`` (IJB-C: G1, G2) and
  ``PREFIX_1N_probe_mixed.csv``: below a header line, template and subject first; one
  line for each image.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from mmengine.logging import print_log

from mmhyperface.datasets.pair_sets import require_both_kinds
from mmhyperface.datasets.template_sets import (
    Ints,
    TemplateProtocols,
    refuse,
    subjects_of_templates,
)
from mmhyperface.utils.choices import PROTOCOLS, SUBSETS
from mmhyperface.utils.errors import UserError, some
from mmhyperface.utils.lookup import rows_of

from .numeric_lists import NAME, line_of, read_rows
from .tables import read_integers

#: Of the sets as they were published.
SIZES = {
    'IJBB': {'images': 227_630, 'templates': 12_115, 'pairs': 8_010_270},
    'IJBC': {
        'images': 469_375,
        'templates': 23_124,
        'pairs': 15_658_489,
        'probes': 19_593,
        'gallery G1': 1_772,
        'gallery G2': 1_759,
    },
}
#: The share of the pairs of a kind whose labels may contradict the subjects of 1:N:
#: published labels have errors too, but other files are another data set.
MOST_CONTRADICTIONS = 0.01


@dataclass(frozen=True, eq=False)
class IJBMeta:
    """What the meta files say of N images, in the order of their lists.

    Attributes:
        names: of the image files, ASCII, 'S' [N].
        landmarks: float32 [N, 5, 2], (x, y) in pixels of the loose crop.
        detector_scores: float32 [N].
        template_ids: int64 [N].
        media_ids: int64 [N].
        protocol: the pairs, probes and galleries that were asked for.
    """

    names: npt.NDArray[np.bytes_]
    landmarks: npt.NDArray[np.float32]
    detector_scores: npt.NDArray[np.float32]
    template_ids: Ints
    media_ids: Ints
    protocol: TemplateProtocols

    def test_set(self) -> dict[str, Any]:
        """The entry of a set whose images are all items of one data set."""
        return dict(
            kind='templates',
            offset=0,
            num_images=len(self.names),
            template_ids=self.template_ids,
            media_ids=self.media_ids,
            detector_scores=self.detector_scores,
            protocol=self.protocol,
        )


def read_ijb_meta(
    meta_dir: str,
    subset: str,
    protocols: Sequence[str] = PROTOCOLS,
    advice: str = 'Check the folder of the meta files',
    one_protocol: str = "protocols=['{}']",
) -> IJBMeta:
    """Reads the meta files of a folder; images are not needed.

    There is a warning where their sizes are not those that were published, of templates
    that 1:N does not use, which may be for a file that is cut off, and where the
    labels of at most 1 % of the pairs of a kind contradict the subjects of 1:N.

    Args:
        meta_dir: the folder.
        subset: 'IJBB' or 'IJBC'.
        protocols: '1:1', '1:N' or both: files of the other one need not be there.
            Without the latter, nothing tells whose template one is.
        advice: ends the error of a file that is missing.
        one_protocol: how to ask for a single protocol, for the same error.

    Raises:
        UserError: with file and line, where there is one: files that are missing,
            malformed or disagree with each other.
    """
    if subset not in SUBSETS:
        raise UserError(f'subset is {tuple(SUBSETS)}, got {subset!r}')
    if isinstance(protocols, str) or set(protocols) - set(PROTOCOLS) or not protocols:
        raise UserError(f'protocols is some of {PROTOCOLS}, got {protocols!r}')
    files = _Files(meta_dir, subset)
    files.require(protocols, advice, one_protocol)

    names, landmarks, scores = _read_images(files.images)
    template_ids, media_ids = _read_templates(files.templates, names, files.images)
    ids, of_image = np.unique(template_ids, return_inverse=True)
    _check_weights(files.images, ids, of_image, scores)
    pairs = _read_pairs(files.pairs, ids) if '1:1' in protocols else None
    if '1:N' in protocols:
        protocol = _read_search(files, ids, pairs)
    else:
        protocol = TemplateProtocols(np.full(len(ids), -1, np.int64), pairs)
    _compare_sizes(meta_dir, subset, len(names), protocol)
    return IJBMeta(names, landmarks, scores, template_ids, media_ids, protocol)


class _Files:
    """Paths of the meta files."""

    def __init__(self, meta_dir: str, subset: str) -> None:
        def path(name: str) -> str:
            return os.path.join(meta_dir, f'{subset.lower()}_{name}')

        self.folder, self.subset = meta_dir, subset
        self.images = path('name_5pts_score.txt')
        self.templates = path('face_tid_mid.txt')
        self.pairs = path('template_pair_label.txt')
        self.probes = path('1N_probe_mixed.csv')
        self.galleries = {
            name: path(f'1N_gallery_{name}.csv') for name in SUBSETS[subset]
        }

    def require(self, protocols: Sequence[str], advice: str, one_protocol: str) -> None:
        if not os.path.isdir(self.folder):
            raise UserError(f"there is no folder '{self.folder}'. {advice}")
        of_protocol = {
            '1:1': [self.pairs],
            '1:N': [*self.galleries.values(), self.probes],
        }
        for path in (self.images, self.templates):
            if not os.path.isfile(path):
                raise UserError(
                    f'{path}: there is no such file{self._elsewhere()}. {advice}'
                )
        for protocol in protocols:
            for path in of_protocol[protocol]:
                if not os.path.isfile(path):
                    (other,) = (p for p in PROTOCOLS if p != protocol)
                    raise UserError(
                        f'{path}: there is no such file, which {protocol} needs. '
                        f'{advice}, or go without it: {one_protocol.format(other)}'
                    )

    def _elsewhere(self) -> str:
        """Where there are such files, in words."""
        for folder in (self.folder, os.path.join(self.folder, 'meta')):
            for subset in (self.subset, *SUBSETS):
                if os.path.isfile(_Files(folder, subset).images):
                    return f", but '{folder}' has the files of {subset}"
        return ''


def _read_images(path: str) -> tuple[Any, Any, Any]:
    """Names, landmarks and detector scores."""
    rows = read_rows(
        path,
        [('name', NAME), ('points', 'f4', 10), ('score', 'f4')],
        '`name x1 y1 x2 y2 x3 y3 x4 y4 x5 y5 score`',
    )
    finite = np.isfinite(rows['points']).all(axis=1)
    _refuse_line(path, ~finite, 'a landmark is no finite number')
    points = rows['points'].reshape(-1, 5, 2)
    one_point = (points == points[:, :1]).all(axis=(1, 2))
    _refuse_line(path, one_point, 'all five landmarks are one point')
    scores = np.ascontiguousarray(rows['score'])
    _refuse_line(path, ~(scores >= 0) | np.isinf(scores), 'the score is no number ≥ 0')
    longest = int(np.char.str_len(rows['name']).max())
    names = rows['name'].astype(f'S{longest}')
    return names, points.copy(), scores


def _read_templates(path: str, names: Any, images: str) -> tuple[Ints, Ints]:
    """Templates and media of the images, whose names have to be these."""
    rows = read_rows(
        path,
        [('name', NAME), ('template', 'i8'), ('media', 'i8')],
        '`name template media`',
    )
    if len(rows) != len(names):
        raise UserError(
            f'{path} has {len(rows)} images, {images} has {len(names)}: their lines '
            'belong together; one of them is cut off, or of another data set'
        )
    _refuse_line(path, rows['name'] != names, f'another image than in {images}')
    return np.ascontiguousarray(rows['template']), np.ascontiguousarray(rows['media'])


def _check_weights(path: str, ids: Ints, of_image: Ints, scores: Any) -> None:
    weights = np.bincount(of_image, weights=scores)
    refuse(
        path,
        'templates without a detector score above 0, of which nothing is left to pool',
        ids[weights <= 0],
    )


def _read_pairs(path: str, ids: Ints) -> tuple[Ints, Ints, Any]:
    rows = read_rows(
        path,
        [('a', 'i4'), ('b', 'i4'), ('same', 'i1')],
        '`template template label`, integers below 2³¹ with label 0 or 1',
    )
    labels = rows['same']
    _refuse_line(path, (labels != 0) & (labels != 1), 'the label is neither 0 nor 1')
    same = labels == 1
    require_both_kinds(same, path)
    return _known(path, ids, rows['a']), _known(path, ids, rows['b']), same


def _read_search(files: _Files, ids: Ints, pairs: Any) -> TemplateProtocols:
    probes = _read_subjects(files.probes, ids)
    galleries = {
        name: _read_subjects(path, ids) for name, path in files.galleries.items()
    }
    by_path = {path: galleries[name] for name, path in files.galleries.items()}
    subjects = subjects_of_templates(
        ids, {**by_path, files.probes: probes}, files.probes
    )
    unused = np.count_nonzero(subjects < 0)
    if unused:
        _warn(
            f'{files.folder}: {unused} of {len(ids)} templates are in no gallery and '
            'no probe list: is a file cut off?'
        )
    if pairs is not None:
        _check_labels(files.pairs, subjects, *pairs)
    return TemplateProtocols(subjects, pairs, probes, galleries)


def _check_labels(path: str, subjects: Ints, a: Ints, b: Ints, same: Any) -> None:
    """Compares the pairs' labels with the subjects, where both are known.

    Raises:
        UserError: if more than :data:`MOST_CONTRADICTIONS` of a kind contradict them.
    """
    of_a, of_b = subjects[a], subjects[b]
    wrong = (of_a >= 0) & (of_b >= 0) & ((of_a == of_b) != same)
    what = 'the label contradicts the subjects of the galleries and probes'
    if max(wrong[same].mean(), wrong[~same].mean()) > MOST_CONTRADICTIONS:
        _refuse_line(path, wrong, what)
    if wrong.any():
        _warn(_told(path, wrong, what))


def _compare_sizes(
    folder: str, subset: str, num_images: int, protocol: TemplateProtocols
) -> None:
    sizes = {'images': num_images, 'templates': len(protocol.subjects)}
    if protocol.pairs is not None:
        sizes['pairs'] = len(protocol.pairs[0])
    if protocol.probes is not None:
        sizes['probes'] = len(protocol.probes[0])
    for name, (rows, _) in protocol.galleries.items():
        sizes[f'gallery {name}'] = len(rows)
    differing = [
        f'{sizes[what]:,} {what} (published: {size:,})'
        for what, size in SIZES[subset].items()
        if sizes.get(what, size) != size
    ]
    if differing:
        _warn(f'{folder}: this is not the whole {subset}: {", ".join(differing)}')


def _read_subjects(path: str, ids: Ints) -> tuple[Ints, Ints]:
    """Rows of the templates, int64, each once and ascending, and their subjects."""
    rows, lines = read_integers(path, 2, '`template,subject,…` with integers')
    templates, given = rows.T
    places = _known(path, ids, templates, lines).astype(np.int64)
    _refuse_line(path, given < 0, 'a subject below 0', lines)
    distinct, first, inverse = np.unique(places, return_index=True, return_inverse=True)
    subjects = given[first]
    _refuse_line(
        path,
        given != subjects[inverse],
        'the template has another subject in an earlier line',
        lines,
    )
    return distinct, subjects


def _known(
    path: str, ids: Ints, wanted: Ints, lines: Sequence[int] | None = None
) -> Ints:
    """Rows of templates, which have to be known."""
    rows = rows_of(ids, wanted)
    unknown = rows < 0
    if unknown.any():
        what = f'templates without an image: {some(np.unique(wanted[unknown]))}'
        _refuse_line(path, unknown, what, lines)
    return rows


def _refuse_line(
    path: str, wrong: Any, what: str, lines: Sequence[int] | None = None
) -> None:
    """Raises a UserError if a row is wrong; `lines` are theirs, if they are known."""
    if wrong.any():
        raise UserError(_told(path, wrong, what, lines))


def _told(path: str, wrong: Any, what: str, lines: Sequence[int] | None = None) -> str:
    row = int(wrong.argmax())
    line = line_of(path, row) if lines is None else lines[row]
    return f'{path}:{line}: {what} ({wrong.sum()} of {len(wrong)} lines)'


def _warn(message: str) -> None:
    print_log(message, 'current', logging.WARNING)
