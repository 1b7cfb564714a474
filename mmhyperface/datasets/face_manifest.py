"""Tables of images: CSV, TSV or Parquet with a path and an identity column."""

import csv
import os
from array import array
from collections.abc import Iterator
from typing import Any

from mmhyperface.errors import UserError
from mmhyperface.registry import DATASETS

from .face_dataset import FaceDataset

_DELIMITERS = {'.csv': ',', '.tsv': '\t'}
_PARQUET = ('.parquet', '.pq')


@DATASETS.register_module()
class FaceManifest(FaceDataset):
    """A table with one image per row; the label is the person.

    CSV and TSV are UTF-8 with a header line, fields quoted as usual; Parquet takes
    ``pip install pyarrow``. Other columns are passed over. Identities are text, sorted
    as plain strings (as :class:`FaceList` does); these are ``metainfo['classes']``.

    Args:
        ann_file: the table, relative to `data_root` or absolute.
        data_root: what `ann_file` and `data_prefix` are relative to.
        data_prefix: the folder the paths start from, relative to `data_root` or
            absolute.
        path_column: name of the column of the images' paths.
        identity_column: name of the column of the persons.
        check_files: look for every image now, at the price of a walk over them.
        **kwargs: see :class:`FaceDataset`.

    Raises:
        UserError: with file and line (or row): a table that cannot be read, lacks a
            column, or has an empty field or a missing image.
    """

    def __init__(
        self,
        ann_file: str,
        data_root: str = '',
        data_prefix: str = '',
        path_column: str = 'path',
        identity_column: str = 'identity',
        check_files: bool = False,
        **kwargs: Any,
    ) -> None:
        self.columns = path_column, identity_column
        self.check_files = check_files
        super().__init__(
            data_root=data_root, ann_file=ann_file, data_prefix=data_prefix, **kwargs
        )

    def load_data_list(self) -> list[dict]:
        ids: dict[str, int] = {}
        paths: list[str] = []
        of_path = array('q')
        for place, path, identity in self._rows():
            if not (path and identity):
                missing = self.columns[0 if not path else 1]
                raise UserError(f'{self.ann_file}:{place}: {missing} is empty')
            path = os.path.join(self.img_prefix, path)
            if self.check_files and not os.path.isfile(path):
                raise UserError(
                    f"{self.ann_file}:{place}: no image '{path}'. Paths start from "
                    f'{self._option("data_prefix")}'
                )
            paths.append(path)
            of_path.append(ids.setdefault(identity, len(ids)))
        if not paths:
            raise self._error(f"the table '{self.ann_file}' has no rows")
        return self._images_of(paths, of_path, ids)

    def _rows(self) -> Iterator[tuple[int, str, str]]:
        """(line or row, path, identity) of each row."""
        ending = os.path.splitext(self.ann_file)[1].lower()
        if ending in _PARQUET:
            return self._parquet_rows()
        if ending not in _DELIMITERS:
            known = ', '.join([*_DELIMITERS, *_PARQUET])
            raise self._error(f"'{self.ann_file}' ends with none of {known}")
        return self._text_rows(_DELIMITERS[ending])

    def _text_rows(self, delimiter: str) -> Iterator[tuple[int, str, str]]:
        line = 1
        try:
            with open(self.ann_file, encoding='utf-8-sig', newline='') as file:
                reader = csv.reader(file, delimiter=delimiter, strict=True)
                header = next(reader, [])
                self._require_columns(header)
                at = [header.index(column) for column in self.columns]
                for fields in reader:
                    line = reader.line_num
                    if not fields:
                        continue
                    if len(fields) != len(header):
                        raise UserError(
                            f'{self.ann_file}:{line}: expected {len(header)} fields as '
                            f'in the header, got {len(fields)}'
                        )
                    yield line, fields[at[0]].strip(), fields[at[1]].strip()
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f'{self.ann_file}:{line + 1}: {error}') from None
        except OSError as error:
            raise self._unreadable(str(error.strerror)) from None

    def _parquet_rows(self) -> Iterator[tuple[int, str, str]]:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise self._error(
                f"'{self.ann_file}' needs pyarrow: pip install pyarrow"
            ) from None
        try:
            table = pyarrow.parquet.ParquetFile(self.ann_file)
            self._require_columns(table.schema_arrow.names)
            row = 0
            for batch in table.iter_batches(columns=list(self.columns)):
                values = (batch.column(name).to_pylist() for name in self.columns)
                for path, identity in zip(*values, strict=True):
                    row += 1
                    yield row, _text(path), _text(identity)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._unreadable(str(error)) from None

    def _require_columns(self, found: list[str]) -> None:
        missing = [column for column in self.columns if column not in found]
        if missing:
            raise UserError(
                f'{self.ann_file}:1: no column {missing[0]!r} among {found}; set '
                'path_column and identity_column'
            )

    def _unreadable(self, why: str) -> UserError:
        return UserError(
            f"cannot read the table '{self.ann_file}': {why}. Set "
            f'{self._option("ann_file")}'
        )


def _text(value: object) -> str:
    return '' if value is None else str(value)
