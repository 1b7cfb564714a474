"""Test sets of pairs from a list: OpenSphere's format and LFW's ``pairs.txt``."""

import os
from array import array
from typing import Any

import numpy as np

from mmhyperface.errors import UserError
from mmhyperface.registry import DATASETS

from .face_dataset import FaceDataset
from .pair_sets import consecutive_folds, folder_identities, set_pairs
from .text_lists import read_lines, split_fields

#: (line number, same person?, path, path)
Pair = tuple[int, bool, str, str]


@DATASETS.register_module()
class FacePairs(FaceDataset):
    """A list of pairs of images, in a format told by its first line:

    - OpenSphere: ``label path0 path1`` on every line, 1 = same person, 0 = not.
      Paths with spaces need tabs between the three fields.
    - LFW: first ``folds pairs`` (or only ``pairs``, for one fold), then for each fold
      as many lines ``name n1 n2`` and as many ``name1 n1 name2 n2``. The file of
      ``name n`` is ``name/name_%04d`` and `extension`. Fields are separated by tabs
      or any white space.

    UTF-8, with or without a byte order mark; LF or CRLF; blank lines are passed over.
    There is a warning of pairs that are listed again, and of an image with itself.

    Items are the distinct images, each once, in the order in which the list first
    names them. The pairs are in ``metainfo['test_sets'][name]``, described in
    :mod:`mmhyperface.datasets.pair_sets`. Folds come from an LFW list (None if it has
    one) or from `folds`. Who is on an image is told by its folder, in an OpenSphere
    list if the labels of all pairs agree.

    Args:
        ann_file: the list, relative to `data_root` or absolute.
        name: of the test set, in reports.
        data_root: what `ann_file` and `data_prefix` are relative to.
        data_prefix: the folder the paths of the list start from, relative to
            `data_root` or absolute.
        extension: of the images of an LFW list.
        folds: the OpenSphere list is so many consecutive folds of equal size (the
            first ones larger by one if need be). None: it has no folds.
        check_files: look for every image now.
        **kwargs: see :class:`FaceDataset`; `indices` is refused.

    Raises:
        UserError: with file and line: a malformed line, a count that disagrees, a
            missing image; pairs of only one kind, in all or in a fold.
    """

    LOADER = 'test_dataloader'

    #: Whether the list is one of LFW's, which tells of its folds, once it is read.
    is_lfw = False

    def __init__(
        self,
        ann_file: str,
        name: str = 'pairs',
        data_root: str = '',
        data_prefix: str = '',
        extension: str = '.jpg',
        folds: int | None = None,
        check_files: bool = True,
        **kwargs: Any,
    ) -> None:
        self.name = name
        self.extension = '.' + extension.lstrip('.')
        self.folds = folds
        self.check_files = check_files
        super().__init__(
            data_root=data_root, ann_file=ann_file, data_prefix=data_prefix, **kwargs
        )

    def load_data_list(self) -> list[dict]:
        advice = f'Set data_root, or {self._option("ann_file")}'
        lines = list(read_lines(self.ann_file, advice))
        if not lines:
            raise self._error(f"the list '{self.ann_file}' has no pairs")
        self.is_lfw = len(split_fields(lines[0][1])) <= 2
        if self.is_lfw:
            pairs, folds = self._read_lfw(lines)
        else:
            pairs = [self._parse_opensphere(*line) for line in lines]
            folds = consecutive_folds(len(pairs), self.folds, self.ann_file)

        images: dict[str, int] = {}
        first_lines = array('q')
        index = np.empty((2, len(pairs)), np.int64)
        for i, (number, _, *paths) in enumerate(pairs):
            for side, path in enumerate(paths):
                index[side, i] = images.setdefault(path, len(images))
                if len(images) > len(first_lines):
                    first_lines.append(number)
        full_paths = [os.path.join(self.img_prefix, path) for path in images]
        if self.check_files:
            self._check(full_paths, first_lines)
        same = np.array([same for _, same, *_ in pairs])
        self._check_pairs(pairs, index, same)
        set_pairs(
            self,
            self.name,
            num_images=len(images),
            index_a=index[0],
            index_b=index[1],
            same=same,
            folds=folds,
            source=self.ann_file,
            identities=folder_identities(list(images), index[0], index[1], same),
        )
        return [dict(img_path=path) for path in full_paths]

    def _check(self, paths: list[str], first_lines: array) -> None:
        missing = [i for i, path in enumerate(paths) if not os.path.isfile(path)]
        if missing:
            raise self._line_error(
                first_lines[missing[0]],
                f"no image '{paths[missing[0]]:.300}'; {len(missing)} of {len(paths)} "
                f'are missing. Paths start from {self._option("data_prefix")}; the '
                'images of an LFW list end with its extension=...',
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
        if len(given) <= 2 and all(map(_is_number, given)):
            *more, per_kind = map(int, given)
            num_folds = more[0] if more else 1
        if per_kind < 1 or num_folds < 1:
            raise self._line_error(
                header_number,
                'expected `folds pairs`, as `10 300` (LFW), or `label path0 path1` '
                f'(OpenSphere), got {header!r:.300}',
            )
        if self.folds is not None:
            raise self._line_error(
                header_number,
                f'an LFW list has its own folds, here {num_folds}; take '
                f'folds={self.folds} out of FacePairs',
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
            or not all(map(_is_number, numbers))
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

    def _line_error(self, number: int, message: str) -> UserError:
        return UserError(f'{self.ann_file}:{number}: {message}')


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 10
