"""Tables of images: CSV, TSV or Parquet with a path and an identity column."""

from collections.abc import Iterator
from typing import Any

from mmhyperface.registry import DATASETS

from .face_dataset import FaceDataset
from .readers.tables import read_table, text_of


@DATASETS.register_module()
class FaceManifest(FaceDataset):
    """A table with one image per row; the label is the person.

    CSV and TSV are UTF-8 with a header line, fields quoted as usual; Parquet, whose
    two columns are text or integers, takes ``pip install pyarrow``. Other columns are
    passed over. Identities are text, sorted as plain strings (as :class:`FaceList`
    does); these are ``metainfo['classes']``. An image may be listed again, but not
    under another identity.

    Args:
        ann_file: the table, relative to `data_root` or absolute.
        data_root: what `ann_file` and `data_prefix` are relative to.
        data_prefix: the folder the paths start from, relative to `data_root` or
            absolute.
        path_column: name of the column of the images' paths.
        identity_column: name of the column of the persons.
        check_files: look for every image now, which takes its time.
        **kwargs: see :class:`FaceDataset`.

    Raises:
        UserError: with file and line (or row): a table that cannot be read, lacks a
            column, or has an empty field, an image of two people or a missing one.
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
        return self._images_of(self._records(), self.check_files)

    def _records(self) -> Iterator[tuple[int, str, str]]:
        """(line or row, path, identity) of each row, checked."""
        rows = read_table(
            self.ann_file,
            self.columns,
            advice=f'Set {self._option("ann_file")}',
            other_columns='set path_column and identity_column',
        )
        for place, (path, identity) in rows:
            source = f'{self.ann_file}:{place}'
            image = text_of(path, f'{source}: {self.columns[0]}')
            yield place, image, text_of(identity, f'{source}: {self.columns[1]}')
