"""The lists and feature files of MegaFace, as its devkit and insightface have them.

A list holds a relative path on each line, or it is the devkit's JSON, ``{"id": [...],
"path": [...]}``. The identity of a probe is its id, or else the folder of its image. A
list of noise has a line for each image that shows someone else: the file name of a
probe; of a distractor the last three parts of the path, after a tab if there is
something before them. Lines that begin with # are comments.
"""

import json
import os
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from mmhyperface.utils.errors import UserError

from .text_lists import read_lines

#: Bytes: an array of a million paths has room for the longest one in each place.
LONGEST_PATH = 255
_HEADER = struct.Struct('<4i')
# A feature is a column of float32, in OpenCV's numbers.
_COLUMN_OF_FLOATS = (1, 4, 5)


@dataclass(frozen=True, eq=False)
class MegaFaceLists:
    """P probes and N distractors, each in the order of its list.

    Attributes:
        probes: paths in UTF-8, relative to the folder of the probes, 'S' [P].
        distractors: likewise, 'S' [N].
        identities: of the probes, by name; subject i is the i-th of them.
        subjects: int64 [P + N], of the probes and then of the distractors, which
            have -1.
        noisy: bool [P + N], whether it is listed as noise.
    """

    probes: npt.NDArray[np.bytes_]
    distractors: npt.NDArray[np.bytes_]
    identities: tuple[str, ...]
    subjects: npt.NDArray[np.int64]
    noisy: npt.NDArray[np.bool_]

    def test_set(self) -> dict[str, Any]:
        """The entry of a set whose images are all items of one data set."""
        return dict(
            kind='megaface',
            offset=0,
            num_images=len(self.subjects),
            subjects=self.subjects,
            noisy=self.noisy,
        )

    def single_probes(self) -> list[str]:
        """The identities with one image that is not noise: they make no pair."""
        probes = slice(len(self.probes))
        clean = self.subjects[probes][~self.noisy[probes]]
        counts = np.bincount(clean, minlength=len(self.identities))
        return [self.identities[i] for i in np.flatnonzero(counts == 1)]


def read_megaface_lists(
    data_root: str,
    facescrub_list: str = 'facescrub_lst',
    megaface_list: str = 'megaface_lst',
    facescrub_noises: str | None = 'facescrub_noises.txt',
    megaface_noises: str | None = 'megaface_noises.txt',
    num_distractors: int | None = None,
    advice: str = 'Check data_root',
    no_noise: str = 'None',
) -> MegaFaceLists:
    """Reads the lists; images are not needed.

    Args:
        data_root: what the other paths are relative to, unless they are absolute.
        facescrub_list: of the probes.
        megaface_list: of the distractors.
        facescrub_noises: of the probes; None: none of them is noise.
        megaface_noises: of the distractors, likewise.
        num_distractors: only the first so many.
        advice: ends the error of a file that cannot be read.
        no_noise: how to ask for no list of noise, for errors.

    Raises:
        UserError: with file and line, where there is one: a file that cannot be read
            or is empty, a path that is listed twice or too long, fewer distractors than
            asked for, no identity with two images that are not noise, noise of which
            nothing is in the list.
    """
    root = partial(os.path.join, data_root)
    probes = _read_list(root(facescrub_list), advice)
    noise = facescrub_noises and root(facescrub_noises)
    without = f'without a list of noise: {no_noise}'
    noisy_probes = _noise_among(probes, noise, advice, without, parts=1)
    names, subjects = np.unique(np.array(probes.identities()), return_inverse=True)
    if (np.bincount(subjects[~noisy_probes], minlength=1) < 2).all():
        raise UserError(
            f'{probes.file}: no identity has two images that are not noise, so that '
            'there is no mate to look for'
        )
    distractors = _read_list(root(megaface_list), advice)
    noise = megaface_noises and root(megaface_noises)
    noisy = _noise_among(distractors, noise, advice, without, parts=3)
    listed = len(distractors.paths)
    count = listed if num_distractors is None else num_distractors
    if type(count) is not int or not 1 <= count <= listed:
        raise UserError(
            f'num_distractors={num_distractors!r}: expected an integer from 1 to the '
            f'{listed} that {distractors.file} has'
        )
    return MegaFaceLists(
        probes=np.array(probes.paths),
        distractors=np.array(distractors.paths[:count]),
        identities=tuple(names.tolist()),
        subjects=np.concatenate([subjects, np.full(count, -1)]),
        noisy=np.concatenate([noisy_probes, noisy[:count]]),
    )


def read_feature_file(path: str) -> npt.NDArray[np.float32]:
    """One feature of the devkit, [D]; a cleaned one has D + 1 values, of which the last
    one marks noise.

    Raises:
        UserError: a file that cannot be read, or is no such file.
    """
    try:
        with open(path, 'rb') as file:
            data = file.read()
    except OSError as error:
        raise UserError(f"cannot read the feature '{path}': {error.strerror}") from None
    if len(data) < _HEADER.size:
        raise UserError(
            f'{path}: {len(data)} bytes, expected the header of a feature of MegaFace, '
            f'{_HEADER.size} bytes, and its values'
        )
    count, *kind = _HEADER.unpack_from(data)
    if tuple(kind) != _COLUMN_OF_FLOATS or count < 1:
        raise UserError(
            f'{path}: starts with {(count, *kind)}, expected the number of values and '
            f'then {_COLUMN_OF_FLOATS}: this is no feature of MegaFace'
        )
    if len(data) != _HEADER.size + 4 * count:
        raise UserError(
            f'{path}: has {len(data) - _HEADER.size} bytes of values, expected 4 x '
            f'{count}: it is cut off or damaged'
        )
    return np.frombuffer(data, '<f4', offset=_HEADER.size).astype(np.float32)


def feature_width(folder: str, paths: npt.NDArray[np.bytes_], suffix: str) -> int:
    """The number of values of the first of the files of :func:`read_feature_files`.

    Raises:
        UserError: see there; if it is missing, the suffix may be wrong.
    """
    file = os.path.join(folder, paths[0].decode() + suffix)
    if not os.path.isfile(file):
        raise UserError(
            f'{file}: there is no such file. What follows the path of an image in the '
            f'names of its features is --suffix, here {suffix!r}'
        )
    return len(read_feature_file(file))


def read_feature_files(
    folder: str, paths: npt.NDArray[np.bytes_], suffix: str
) -> npt.NDArray[np.float32]:
    """Features [N, D] from one file of each image, ``folder/path`` and `suffix`.

    Of cleaned features the value that marks noise is one of the D: by cosine it keeps
    noise away from what is not noise. The progress is shown on stderr.

    Raises:
        UserError: a file that :func:`read_feature_file` refuses, or of another number
            of values than the first one.
    """
    rows = np.empty((0, 0), np.float32)
    console = Console(stderr=True)
    shown = track(paths.tolist(), f'reading {folder}', console=console)
    for i, path in enumerate(shown):
        file = os.path.join(folder, path.decode() + suffix)
        feature = read_feature_file(file)
        if not i:
            rows = np.empty((len(paths), len(feature)), np.float32)
        if len(feature) != rows.shape[1]:
            raise UserError(
                f'{file}: has {len(feature)} values, but the features before it '
                f'{rows.shape[1]}'
            )
        rows[i] = feature
    return rows


@dataclass
class _Listed:
    """A list: its paths, whence they are, and identities if it tells of them."""

    file: str
    paths: list[bytes]
    lines: Sequence[int] | None  # None: it is JSON
    ids: list[str] | None = None

    def __post_init__(self) -> None:
        if not self.paths:
            raise UserError(f'{self.file}: lists no image')
        for i, path in enumerate(self.paths):
            if len(path) > LONGEST_PATH:
                raise UserError(
                    f'{self.place(i)}: a path of over {LONGEST_PATH} bytes: this is no '
                    'list of images'
                )
        if len(set(self.paths)) < len(self.paths):
            first: dict[bytes, int] = {}
            for i, path in enumerate(self.paths):
                if first.setdefault(path, i) != i:
                    raise UserError(
                        f'{self.place(i)}: {path.decode()!r} is listed again, first '
                        f'in {self.place(first[path])}. Take one of them out'
                    )

    def place(self, i: int) -> str:
        if self.lines is None:
            return f'{self.file}: path {i}'
        return f'{self.file}:{self.lines[i]}'

    def identities(self) -> list[str]:
        """By id, or else the folder of the image."""
        if self.ids is not None:
            return self.ids
        names = []
        for i, path in enumerate(self.paths):
            folders = path.decode().split('/')
            if len(folders) < 2:
                raise UserError(
                    f'{self.place(i)}: {path.decode()!r} has no folder, which tells '
                    'the identity: expected `identity/image`'
                )
            names.append(folders[-2])
        return names


def _read_list(path: str, advice: str) -> _Listed:
    lines = array('q')
    paths = []
    for number, line in read_lines(path, advice):
        if not lines and line.startswith('{'):
            return _read_json(path)
        lines.append(number)
        paths.append(line.encode())
    return _Listed(path, paths, lines)


def _read_json(path: str) -> _Listed:
    try:
        with open(path, encoding='utf-8-sig') as file:
            content = json.load(file)
    except ValueError as error:  # of JSON, or not UTF-8
        raise UserError(f'{path}: starts as JSON, but: {error}') from None
    paths, ids = content.get('path'), content.get('id')
    if not isinstance(paths, list) or not all(isinstance(p, str) for p in paths):
        raise UserError(f"{path}: expected a list of paths under 'path'")
    if ids is not None and (not isinstance(ids, list) or len(ids) != len(paths)):
        raise UserError(
            f"{path}: expected a list under 'id' as long as the {len(paths)} paths"
        )
    ids = None if ids is None else [str(i) for i in ids]
    return _Listed(path, [p.encode() for p in paths], None, ids)


def _noise_among(
    listed: _Listed, path: str | None, advice: str, without: str, parts: int
) -> Any:
    """Which images are noise, bool, by so many last parts of their paths.

    Raises:
        UserError: if none is, or the list of noise is empty.
    """
    if path is None:
        return np.zeros(len(listed.paths), bool)
    noise = {
        _last(line.split('\t')[-1].encode(), parts)
        for _, line in read_lines(path, f'{advice}; {without}')
        if not line.startswith('#')
    }
    if not noise:
        raise UserError(f'{path}: lists no image. Fetch it again; {without}')
    noisy = np.array([_last(image, parts) in noise for image in listed.paths])
    if not noisy.any():
        raise UserError(
            f'{path}: none of its {len(noise)} images is in {listed.file}. One is '
            f'{min(noise).decode()!r} here and '
            f'{_last(listed.paths[0], parts).decode()!r} there; {without}'
        )
    return noisy


def _last(path: bytes, parts: int) -> bytes:
    return b'/'.join(path.split(b'/')[-parts:])
