import re
import sys

import pytest

from mmhyperface.datasets import FaceManifest
from mmhyperface.errors import UserError


def rows_of(data: FaceManifest) -> list[tuple[str, str]]:
    classes = data.metainfo['classes']
    return [
        (item['img_path'], classes[item['gt_label']])
        for item in map(data.get_data_info, range(len(data)))
    ]


ROWS = [('b/1.jpg', 'Zoë'), ('a, b/2.jpg', 'anna'), ('c/3.jpg', 'Zoë'), ('4.jpg', '7')]


@pytest.mark.parametrize('ending', ['csv', 'tsv', 'parquet'])
def test_tables(tmp_path, ending):
    path = tmp_path / f'faces.{ending}'
    if ending == 'parquet':
        pyarrow = pytest.importorskip('pyarrow')
        parquet = pytest.importorskip('pyarrow.parquet')
        columns = dict(zip(('path', 'identity'), zip(*ROWS, strict=True), strict=True))
        table = pyarrow.table({'other': [1, 2, 3, 4], **columns})
        parquet.write_table(table, path)
    else:
        tab = ',' if ending == 'csv' else '\t'
        lines = [tab.join(('identity', 'other', 'path'))]
        lines += [tab.join((name, '"x\n"', f'"{image}"')) for image, name in ROWS]
        path.write_text('\ufeff' + '\r\n'.join(lines) + '\r\n\r\n', encoding='utf-8')
    data = FaceManifest(path.name, data_root=str(tmp_path), data_prefix='images')
    assert data.metainfo['classes'] == ('7', 'Zoë', 'anna')
    assert data.metainfo['num_classes'] == 3
    assert rows_of(data) == [(str(tmp_path / 'images' / i), name) for i, name in ROWS]


def test_other_columns(tmp_path):
    (tmp_path / 'a.csv').write_text('file,who\nx.jpg,1\ny.jpg,0\n')
    options = dict(path_column='file', identity_column='who')
    data = FaceManifest('a.csv', data_root=str(tmp_path), **options)
    assert [item['gt_label'] for item in map(data.get_data_info, range(2))] == [1, 0]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', r"a\.csv:1: no column 'path' among \[\]; set path_column"),
        ('path,identity\n', 'has no rows'),
        ('path,who\nx,1\n', r"a\.csv:1: no column 'identity' among"),
        ('path,identity\nx,1\ny\n', r'a\.csv:3: expected 2 fields as in the header'),
        ('path,identity\nx,1\n,2\n', r'a\.csv:3: path is empty'),
        ('path,identity\nx,1\ny, \n', r'a\.csv:3: identity is empty'),
        ('path,identity\nx,"1\n', r'a\.csv:\d: unexpected end'),
        ('path,identity\nz,1\n', r"a\.csv:2: no image '.*z'\. Paths start from"),
    ],
)
def test_malformed_tables(tmp_path, text, message):
    (tmp_path / 'a.csv').write_text(text)
    (tmp_path / 'x').touch()
    with pytest.raises(UserError, match=message):
        FaceManifest('a.csv', data_root=str(tmp_path), check_files=True)


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r'cannot read the table .*No such file'):
        FaceManifest('none.csv', data_root=str(tmp_path))
    (tmp_path / 'a.txt').write_text('x')
    with pytest.raises(UserError, match=re.escape('none of .csv, .tsv, .parquet')):
        FaceManifest('a.txt', data_root=str(tmp_path))
    (tmp_path / 'a.csv').write_bytes(b'path,identity\n\xff\xfe,1\n')
    with pytest.raises(UserError, match=r"a\.csv:\d: 'utf-8' codec"):
        FaceManifest('a.csv', data_root=str(tmp_path))


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(UserError, match='pip install pyarrow'):
        FaceManifest('a.parquet', data_root=str(tmp_path))
