import csv
import io
import re
import sys

import pytest
from damaged_bytes import any_bytes
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmhyperface.datasets import FaceManifest
from mmhyperface.utils.errors import UserError


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
        ('path,identity\n', 'lists no image'),
        ('path,who\nx,1\n', r"a\.csv:1: no column 'identity' among"),
        ('path,identity\nx,1\ny\n', r'a\.csv:3: expected 2 fields as in the header'),
        ('path,identity\nx,1\n,2\n', r'a\.csv:3: path is empty'),
        ('path,identity\nx,1\ny, \n', r'a\.csv:3: identity is empty'),
        ('path,identity\nx,"1\n', r'a\.csv:2: unexpected end'),
        ('path,identity\nx,"1"2\n', r"a\.csv:2: ',' expected after '\"'"),
        ('path,identity\nx,"1\ny,2"\n', r'a\.csv:3: identity holds a line break'),
        ('path,identity\nx,"1\n' + 'x,1\n' * 40_000, r'a\.csv:2: field larger than'),
        ('path;identity\nx;1\n', r"a\.csv:1: no column .* separated by ','"),
        ('path,path,identity\nx,y,1\n', r"a\.csv:1: 2 columns 'path' among"),
        ('path,identity\nx,1\nx,2\n', r"a\.csv:3: '.*x' .* '2', and before under '1'"),
        ('path,identity\n\0,1\n', r'a\.csv:2: a NUL byte'),
        ('path,identity\nx,1\ry,2\r', r'a\.csv:2: new-line character .* LF or CRLF'),
        ('path,identity\nz,1\n', r"a\.csv:2: no image '.*z'; 1 of 1 .* Paths start"),
    ],
)
def test_malformed_tables(tmp_path, text, message):
    (tmp_path / 'a.csv').write_text(text)
    (tmp_path / 'x').touch()
    with pytest.raises(UserError, match=message):
        FaceManifest('a.csv', data_root=str(tmp_path), check_files=True)


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r'cannot read the list .*No such file'):
        FaceManifest('none.csv', data_root=str(tmp_path))
    (tmp_path / 'a.txt').write_text('x')
    with pytest.raises(UserError, match=re.escape('none of .csv, .tsv, .parquet')):
        FaceManifest('a.txt', data_root=str(tmp_path))
    (tmp_path / 'a.csv').write_bytes(b'path,identity\n\xff\xfe,1\n')
    with pytest.raises(UserError, match=r'a\.csv:2: this is UTF-16'):
        FaceManifest('a.csv', data_root=str(tmp_path))


@pytest.mark.parametrize(
    ('paths', 'identities', 'message'),
    [
        (['a', None], ['1', '2'], '2: path is empty'),
        (['a', 'b'], [float('nan'), 1.0], '1: identity is empty'),
        (['a', 'b'], [1.0, None], '1: identity is neither text nor an integer: 1.0'),
        (['a', 'b'], [True, False], '1: identity is neither .*: True'),
        ([b'a', b'b'], ['1', '2'], "1: path is neither .*: b'a'"),
        ([['a'], ['b']], ['1', '2'], '1: path is neither'),
        ([dict(path='a')] * 2, ['1', '2'], '1: path is neither'),
        (['a\0', 'b'], ['1', '2'], '1: path holds a line break'),
        (['a', 'a'], [1, 2], "2: 'a' is listed under '2', and before under '1'"),
        ([], [], 'lists no image'),
    ],
)
def test_parquet_with_other_cells(tmp_path, paths, identities, message):
    pyarrow = pytest.importorskip('pyarrow')
    parquet = pytest.importorskip('pyarrow.parquet')
    path = str(tmp_path / 'a.parquet')
    parquet.write_table(pyarrow.table(dict(path=paths, identity=identities)), path)
    with pytest.raises(UserError, match=message):
        FaceManifest(path)


def test_parquet_with_integers_and_with_two_columns_of_a_name(tmp_path):
    pyarrow = pytest.importorskip('pyarrow')
    parquet = pytest.importorskip('pyarrow.parquet')
    path = str(tmp_path / 'a.parquet')
    names = pyarrow.array(['x', 'y']).dictionary_encode()
    parquet.write_table(pyarrow.table(dict(path=[1, 2], identity=names)), path)
    assert rows_of(FaceManifest(path)) == [('1', 'x'), ('2', 'y')]
    twice = pyarrow.Table.from_arrays([names] * 3, names=['path', 'path', 'identity'])
    parquet.write_table(twice, path)
    with pytest.raises(UserError, match="2 columns 'path' among"):
        FaceManifest(path)


TEXT = b'path,identity,note\na/1.jpg,Ann,\n"b, 2.jpg",Bob,"x\ny"\na/3.jpg,Ann,z\n'
PIECES = [b'path,identity\n', b'a/1.jpg,Ann\n', b'"b\n",Bob\n', b'a/"2",', b',x']


@settings(max_examples=150, deadline=None)
@example(b'\n\r\n' + TEXT)
@given(any_bytes([TEXT, TEXT.replace(b'\n', b'\r\n')], PIECES))
def test_any_bytes_end_in_a_table_or_an_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / 'any.csv'
    path.write_bytes(content)
    try:
        data = FaceManifest(str(path))
    except UserError:
        return
    lines = [line.lstrip('\ufeff') for line in content.decode().split('\n')]
    while lines[0] in ('', '\r'):
        # Blank lines do not count; Python's reader takes the first for the header.
        del lines[0]
    rows = csv.DictReader(io.StringIO('\n'.join(lines), newline=''))
    actual = rows_of(data)
    assert actual == [(row['path'].strip(), row['identity'].strip()) for row in rows]
    assert len(dict(actual)) == len(set(actual))  # one name for an image
    assert data.metainfo['classes'] == tuple(sorted({name for _, name in actual}))


@pytest.fixture(scope='module')
def parquet_file(tmp_path_factory):
    pyarrow = pytest.importorskip('pyarrow')
    parquet = pytest.importorskip('pyarrow.parquet')
    path = tmp_path_factory.mktemp('parquet') / 'any.parquet'
    table = dict(path=['a/1', 'b/1', 'a/2', 'b/2'], identity=['a', 'b', 'a', 'b'])
    parquet.write_table(pyarrow.table(table), path)
    return path, path.read_bytes()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_parquet_ends_in_a_table_or_an_error(parquet_file, drawn):
    path, good = parquet_file
    path.write_bytes(drawn.draw(any_bytes([good])))
    try:
        data = FaceManifest(str(path))
    except UserError:
        return
    actual = rows_of(data)
    assert actual
    assert all(image and name for image, name in actual)
    assert len(dict(actual)) == len(set(actual))


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(UserError, match=r"pip install 'mmhyperface\[parquet\]'"):
        FaceManifest('a.parquet', data_root=str(tmp_path))
