"""Lists of training images, as OpenSphere has them."""

import posixpath
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from mmhyperface.registry import DATASETS

from .face_dataset import FaceDataset, as_extensions
from .readers.image_files import IMAGE_EXTENSIONS
from .readers.text_lists import read_lines


@DATASETS.register_module()
class FaceList(FaceDataset):
    """A text file with one image per line, in either format of OpenSphere:

    - old: ``relative/path name``. The two are separated by the last tab of the line
      if it has one, else by its last space: a path may hold spaces; a name with
      spaces needs a tab.
    - new: ``relative/path``. The name is the whole folder part of the path, which
      may hold spaces; ``./a``, ``b/../a`` and ``a`` are one name.

    The names, sorted as plain strings, are ``metainfo['classes']``; a label is the
    position among them. UTF-8, with or without a byte order mark; LF or CRLF; blank
    lines are passed over. An image may be listed again, but not under another name.

    Args:
        ann_file: the list, relative to `data_root` or absolute.
        data_root: what `ann_file` and `data_prefix` are relative to.
        data_prefix: the folder the listed paths start from, relative to `data_root`
            or absolute.
        format: 'path name' (old), 'path' (new), or 'auto': old unless the first line
            ends as an image does. With 'auto' every line is held to the format of
            the first, which takes paths with one of the `extensions`.
        extensions: of images, in any case.
        check_files: look for every image now, which takes its time.
        **kwargs: see :class:`FaceDataset`.

    Raises:
        UserError: with file and line, what the line should have been.
    """

    def __init__(
        self,
        ann_file: str,
        data_root: str = '',
        data_prefix: str = '',
        format: Literal['auto', 'path name', 'path'] = 'auto',
        extensions: str | Sequence[str] = IMAGE_EXTENSIONS,
        check_files: bool = False,
        **kwargs: Any,
    ) -> None:
        if format not in ('auto', 'path name', 'path'):
            raise self._error(
                f"format is 'auto', 'path name' or 'path', got {format!r}"
            )
        self.format = format
        self.extensions = as_extensions(extensions)
        self.check_files = check_files
        super().__init__(
            data_root=data_root, ann_file=ann_file, data_prefix=data_prefix, **kwargs
        )

    def load_data_list(self) -> list[dict]:
        return self._images_of(self._records(), self.check_files)

    def _records(self) -> Iterator[tuple[int, str, str]]:
        """(line number, path, name) of every line."""
        lines = read_lines(self.ann_file, f'Set {self._option("ann_file")}')
        named: bool | None = (
            None if self.format == 'auto' else self.format == 'path name'
        )
        for number, line in lines:
            if named is None:
                named = not self._is_image(line)
            path, name = _split_last(line) if named else (line, _folder_of(line))
            problem = ''
            if not (path and name):
                problem = 'there is no ' + ('name' if named else 'folder')
            elif not named and '\\' in path:
                problem = 'folders are separated by /, not by \\'
            elif self.format == 'auto':
                problem = self._disagreement(line, path, named)
            if problem:
                expected = (
                    '`relative/path name`' if named else '`relative/path` with a folder'
                )
                raise self._line_error(
                    number,
                    f'expected {expected}, got {line!r:.300}: {problem}. All lines of '
                    'a list have one format; set format or extensions of FaceList if '
                    'you read it in another way',
                )
            yield number, path, name

    def _disagreement(self, line: str, path: str, named: bool) -> str:
        """Why a line is not of the format that the first line has."""
        if not self._is_image(path):
            endings = ', '.join(self.extensions)
            return f'{path!r:.300} does not end with one of {endings}'
        if named and self._is_image(line):
            return 'the line ends with an image, not with a name'
        # In the format without names a pair list would pass for paths with spaces.
        if not named and any(map(self._is_image, line.split()[:-1])):
            return 'there are several images'
        return ''

    def _is_image(self, text: str) -> bool:
        return text.lower().endswith(self.extensions)


def _folder_of(path: str) -> str:
    folder = posixpath.normpath(path.rpartition('/')[0])
    return '' if folder == '.' else folder


def _split_last(line: str) -> tuple[str, str]:
    path, _, name = line.rpartition('\t' if '\t' in line else ' ')
    return path.strip(), name.strip()
