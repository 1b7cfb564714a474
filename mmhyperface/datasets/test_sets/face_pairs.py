"""Test sets of pairs from a list: OpenSphere's, LFW's and CFP's, and tables."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmhyperface.datasets.face_dataset import FaceDataset
from mmhyperface.datasets.pair_sets import consecutive_folds, folder_identities
from mmhyperface.datasets.readers.cfp_splits import read_cfp
from mmhyperface.datasets.readers.tables import is_table, read_table, text_of
from mmhyperface.datasets.readers.text_lists import is_number, read_lines, split_fields
from mmhyperface.registry import DATASETS
from mmhyperface.utils.errors import UserError

#: (line number, or file within a folder and line; same person?, path, path)
Pair = tuple[int | str, bool, str, str]
_SAME = {'1': True, 'true': True, '0': False, '-1': False, 'false': False}


@DATASETS.register_module()
class FacePairs(FaceDataset):
    """A list of pairs of images, in one of these formats:

    - OpenSphere: ``label path0 path1`` on every line, 1 = same person, 0 = not.
      Paths with spaces need tabs between the three fields.
    - LFW: first ``folds pairs`` (or only ``pairs``, for one fold), then for each fold
      as many lines ``name n1 n2`` and as many ``name1 n1 name2 n2``. The file of
      ``name n`` is ``name/name_%04d`` and `extension`. Fields are separated by tabs
      or any white space.
    - a table, by the ending ``.csv``, ``.tsv`` or ``.parquet`` (which takes pyarrow):
      a column for each of the two paths and one of labels: 1 or true = same person; 0,
      -1 or false = not. Other columns are passed over.
    - CFP: the folder ``Protocol/Split/FF`` or ``Protocol/Split/FP`` of its archive.
      Images lie where that has them; with `data_prefix` that is the folder of
      ``001/frontal/01.jpg``.

    UTF-8, with or without a byte order mark; LF or CRLF; blank lines are passed over.
    There is a warning of pairs that are listed again, and of an image with itself.

    Items are the distinct images, each once, in the order in which the list first
    names them. The pairs are in ``metainfo['test_sets'][name]``, described in
    :mod:`.pair_sets`. Folds come from an LFW list (None if it has
    one), from CFP's, or from `folds`. Who is on an image is told by its folder, if the
    labels of all pairs agree.

    Args:
        ann_file: the list, or CFP's folder, relative to `data_root` or absolute.
        name: of the test set, in reports.
        data_root: what `ann_file` and `data_prefix` are relative to.
        data_prefix: the folder the paths of the list start from, relative to
            `data_root` or absolute.
        extension: of the images of an LFW list.
        folds: the OpenSphere list, or the table, is so many consecutive folds of equal
            size (the first ones larger by one if need be). None: it has no folds.
        check_files: look for every image now.
        path_columns: names of the two columns of paths of a table.
        label_column: name of its column of labels.
        **kwargs: see :class:`FaceDataset`; `indices` is refused.

    Raises:
        UserError: with file and line: a malformed line, a count that disagrees, a
            missing image; pairs of only one kind, in all or in a fold.
    """

    LOADER = 'test_dataloader'

    #: Whether the list tells of its folds, as LFW's and CFP's do, once it is read.
    tells_folds = False

    def __init__(
        self,
        ann_file: str,
        name: str = 'pairs',
        data_root: str = '',
        data_prefix: str = '',
        extension: str = '.jpg',
        folds: int | None = None,
        check_files: bool = True,
        path_columns: Sequence[str] = ('path1', 'path2'),
        label_column: str = 'label',
        **kwargs: Any,
    ) -> None:
        if isinstance(path_columns, str) or len(path_columns) != 2:
            raise self._error(
                'path_columns are the names of two columns, got '
                f'{path_columns!r}; set {self._option("path_columns")}'
            )
        self.columns = *path_columns, label_column
        self.own_images = not data_prefix
        self.name = name
        self.extension = '.' + extension.lstrip('.')
        self.folds = folds
        self.check_files = check_files
        super().__init__(
            data_root=data_root, ann_file=ann_file, data_prefix=data_prefix, **kwargs
        )

    def load_data_list(self) -> list[dict]:
        pairs, folds = self._read()

        images: dict[str, int] = {}
        first_places: list[int | str] = []
        index = np.empty((2, len(pairs)), np.int64)
        for i, (place, _, *paths) in enumerate(pairs):
            for side, path in enumerate(paths):
                index[side, i] = images.setdefault(path, len(images))
                if len(images) > len(first_places):
                    first_places.append(place)
        folders = list(images)
        prefix = self.img_prefix
        if os.path.isdir(self.ann_file):  # of CFP, with a folder for each pose
            folders = [os.path.dirname(path) for path in images]
            prefix = '' if self.own_images else prefix
        full_paths = [os.path.join(prefix, path) for path in images]
        if self.check_files:
            extension = self._option('extension')
            lfw = f'; the images of an LFW list end with {extension}'
            self._require_files(full_paths, first_places, lfw)
        same = np.array([same for _, same, *_ in pairs])
        self._check_pairs(pairs, index, same)
        self._set_pairs(
            self.name,
            num_images=len(images),
            index_a=index[0],
            index_b=index[1],
            same=same,
            folds=folds,
            source=self.ann_file,
            identities=folder_identities(folders, index[0], index[1], same),
        )
        return [dict(img_path=path) for path in full_paths]

    def _read(self) -> tuple[list[Pair], np.ndarray | None]:
        """The pairs, and the fold of each."""
        advice = f'Set {self._option("data_root")}, or {self._option("ann_file")}'
        if os.path.isdir(self.ann_file):
            self.tells_folds = True
            self._refuse_folds(self.ann_file, "CFP's lists have their own folds")
            return read_cfp(self.ann_file, advice, below=not self.own_images)
        if is_table(self.ann_file) and not self._has_no_header(advice):
            pairs = self._read_table(advice)
            if not pairs:
                raise self._error(f"the table '{self.ann_file}' has no pairs")
        else:
            lines = list(read_lines(self.ann_file, advice))
            if not lines:
                raise self._error(f"the list '{self.ann_file}' has no pairs")
            self.tells_folds = len(split_fields(lines[0][1])) <= 2
            if self.tells_folds:
                return self._read_lfw(lines)
            pairs = [self._parse_opensphere(*line) for line in lines]
        no_folds = self._option('folds', 'None')
        return pairs, consecutive_folds(len(pairs), self.folds, self.ann_file, no_folds)

    def _has_no_header(self, advice: str) -> bool:
        """Whether a file named as a table is a list of OpenSphere's or LFW's."""
        if not self.ann_file.lower().endswith(('.csv', '.tsv')):
            return False
        _, line = next(read_lines(self.ann_file, advice), (0, ''))
        fields = split_fields(line)
        is_lfw = len(fields) <= 2 and all(map(is_number, fields))
        return is_lfw or (len(fields) == 3 and fields[0] in ('0', '1'))

    def _read_table(self, advice: str) -> list[Pair]:
        rows = read_table(
            self.ann_file,
            self.columns,
            advice,
            f'set {self._option("path_columns")} and {self._option("label_column")}',
        )
        pairs: list[Pair] = []
        different: dict[str, int] = {}  # where each notation of False came first
        for place, (*paths, label) in rows:
            text = _label_text(label)
            if text not in _SAME:
                raise self._line_error(
                    place,
                    f'{self.columns[2]} is {label!r:.100}, expected 1 or true for the '
                    'same person, and 0, -1 or false for different people',
                )
            if not _SAME[text]:
                different.setdefault(text, place)
            if len(different) > 1:
                (first, line), *_ = different.items()
                raise self._line_error(
                    place,
                    f'{self.columns[2]} is {label!r:.100}, but {first} in line {line}: '
                    'a list has one word for different people, 0, -1 or false',
                )
            first, second = (
                text_of(value, f'{self.ann_file}:{place}: {column}')
                for value, column in zip(paths, self.columns, strict=False)
            )
            pairs.append((place, _SAME[text], first, second))
        return pairs

    def _refuse_folds(self, place: str, why: str) -> None:
        if self.folds is not None:
            raise UserError(
                f'{place}: {why}; take folds={self.folds} out of FacePairs: set '
                f'{self._option("folds", "None")}'
            )

    def _check_pairs(
        self, pairs: list[Pair], index: np.ndarray, same: np.ndarray
    ) -> None:
        # Told, not refused: a published list is run as it was published.
        low, high = np.sort(index, axis=0)
        key = low * index.size + high
        order = np.argsort(key, kind='stable')
        repeated = np.flatnonzero(key[order[:-1]] == key[order[1:]])
        before, again = order[repeated], order[repeated + 1]
        for what, which in (
            ('are an image with itself', np.flatnonzero(low == high)),
            ('are listed again', again),
            (
                'are now of the same person, now of different people',
                again[same[before] != same[again]],
            ),
        ):
            if len(which):
                self._warn(
                    f"{len(which)} of the {len(pairs)} pairs of '{self.ann_file}' "
                    f'{what}, for instance in line {pairs[which.min()][0]}'
                )

    def _parse_opensphere(self, number: int, line: str) -> Pair:
        fields = split_fields(line)
        if len(fields) != 3 or fields[0] not in ('0', '1') or not all(fields):
            raise self._line_error(
                number,
                f'expected `label path0 path1` with label 0 or 1, got {line!r:.300}. '
                'Paths with spaces need tabs between the fields; an LFW list starts '
                'with the line `folds pairs`',
            )
        return number, fields[0] == '1', fields[1], fields[2]

    def _read_lfw(
        self, lines: list[tuple[int, str]]
    ) -> tuple[list[Pair], np.ndarray | None]:
        (header_number, header), *lines = lines
        given = header.split()
        per_kind, num_folds = 0, 1
        if len(given) <= 2 and all(map(is_number, given)):
            *more, per_kind = map(int, given)
            num_folds = more[0] if more else 1
        if per_kind < 1 or num_folds < 1:
            raise self._line_error(
                header_number,
                'expected `folds pairs`, as `10 300` (LFW), or `label path0 path1` '
                f'(OpenSphere), got {header!r:.300}',
            )
        self._refuse_folds(
            f'{self.ann_file}:{header_number}',
            f'an LFW list has its own folds, here {num_folds}',
        )
        if len(lines) != num_folds * 2 * per_kind:
            raise self._line_error(
                header_number,
                f'{header!r} announces {num_folds} x 2 x {per_kind} = '
                f'{num_folds * 2 * per_kind} pairs, the file has {len(lines)}',
            )
        pairs = [
            self._parse_lfw(*line, same=i // per_kind % 2 == 0)
            for i, line in enumerate(lines)
        ]
        folds = np.repeat(np.arange(num_folds), 2 * per_kind)
        return pairs, folds if num_folds > 1 else None

    def _parse_lfw(self, number: int, line: str, same: bool) -> Pair:
        names_at = (0,) if same else (0, 2)
        for fields in (split_fields(line), line.split()):
            if len(fields) == (3 if same else 4):
                break
        numbers = [f for i, f in enumerate(fields) if i not in names_at]
        if (
            len(fields) != (3 if same else 4)
            or not all(fields)
            or not all(map(is_number, numbers))
            or (not same and fields[0] == fields[2])
        ):
            expected = (
                '`name n1 n2`: the first half of a fold is pairs of one person'
                if same
                else '`name1 n1 name2 n2`: the second half of a fold is pairs of two '
                'people'
            )
            raise self._line_error(number, f'expected {expected}; got {line!r:.300}')
        names = (fields[0], fields[0 if same else 2])
        path_a, path_b = (
            f'{name}/{name}_{int(n):04d}{self.extension}'
            for name, n in zip(names, numbers, strict=True)
        )
        return number, same, path_a, path_b


def _label_text(value: Any) -> str:
    """'1', '0', '-1', 'true' or 'false' for what a table has in any type."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().lower().removesuffix('.0')
