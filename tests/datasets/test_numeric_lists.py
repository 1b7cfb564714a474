import numpy as np
import pytest
from damaged_bytes import any_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from mmhyperface.datasets.readers.numeric_lists import (
    LONGEST_NAME,
    NAME,
    line_of,
    read_rows,
)
from mmhyperface.datasets.readers.tables import read_integers
from mmhyperface.utils.errors import UserError

FIELDS = [('name', NAME), ('values', 'f4', 2), ('id', 'i4')]
GOOD = b'a.jpg 1.5 -2 3\nb.jpg 0 1e3 -4\n'


def write(tmp_path, data):
    path = tmp_path / 'list.txt'
    path.write_bytes(data)
    return str(path)


def read(tmp_path, data):
    return read_rows(write(tmp_path, data), FIELDS, '`name x y id`', 'Set this')


@pytest.mark.parametrize(
    'data',
    [
        GOOD,
        GOOD.rstrip(),
        GOOD.replace(b'\n', b'\r\n'),
        GOOD.replace(b' ', b'\t'),
        GOOD.replace(b' ', b' \t '),
        GOOD.replace(b'\n', b'\n \n\n'),
        b'\xef\xbb\xbf' + GOOD,
    ],
)
def test_names_and_numbers(tmp_path, data):
    rows = read(tmp_path, data)
    assert rows['name'].tolist() == [b'a.jpg', b'b.jpg']
    assert rows['values'].dtype == np.float32
    assert rows['values'].tolist() == [[1.5, -2], [0, 1000]]
    assert rows['id'].tolist() == [3, -4]


def test_names_are_not_comments_nor_cut(tmp_path):
    name = b'#' + b'x' * (LONGEST_NAME - 1)
    assert read(tmp_path, name + b' 1 2 3')['name'].tolist() == [name]
    with pytest.raises(UserError, match=r'list\.txt:4: expected a name of 1 to 255'):
        read(tmp_path, GOOD + b'\nx' + name + b' 1 2 3')


@pytest.mark.parametrize(
    ('bad', 'message'),
    [
        (b'c 1 2', "'c 1 2'"),
        (b'c 1 2 3 4', "'c 1 2 3 4'"),
        (b'c 1 2 3.0', "'c 1 2 3.0'"),
        (b'c 1 2 x', "'c 1 2 x'"),
        (b'c 1 2 3000000000', "'c 1 2 3000000000'"),
        (b'c 1,5 2 3', "'c 1,5 2 3'"),
        ('龙 1 2 3'.encode(), "'龙 1 2 3'"),
    ],
)
def test_bad_lines_are_named(tmp_path, bad, message):
    expected = rf'list\.txt:4: expected `name x y id`, got {message}'
    with pytest.raises(UserError, match=expected):
        read(tmp_path, GOOD + b'\n' + bad + b'\n' + GOOD)
    # Also where the first line is what tells numpy how many fields there are.
    with pytest.raises(UserError, match=rf'list\.txt:1: expected .*{message}'):
        read(tmp_path, bad + b'\n' + GOOD)


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'', 'list.txt: has no line; expected `name x y id`'),
        (b'\n \n', 'list.txt: has no line'),
        (GOOD + b'\xe9 1 2 3', 'list.txt:3: not UTF-8'),
        (GOOD + 'é 1 2 3'.encode(), 'list.txt:3: expected a name of 1 to 255 ASCII'),
        (GOOD + b'\0 1 2 3', 'list.txt:3: a NUL byte'),
    ],
)
def test_other_files(tmp_path, data, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, data)


def test_files_that_cannot_be_read(tmp_path):
    for path, why in (
        (tmp_path / 'gone', 'no such file'),
        (tmp_path, 'cannot be read'),
    ):
        with pytest.raises(UserError, match=rf'{why}\. Set this'):
            read_rows(str(path), FIELDS, '', 'Set this')
        with pytest.raises(UserError, match='cannot read the list'):
            read_integers(str(path), 2, '')


TABLE = b'TEMPLATE,SUBJECT,FILE\n7,1,img/1.png\n8,2,"a, b"\n'


@pytest.mark.parametrize(
    'data', [TABLE, TABLE.replace(b'\n', b'\r\n'), b'T,S\n7,1\n8,2']
)
def test_tables(tmp_path, data):
    rows, lines = read_integers(write(tmp_path, data), 2, '')
    assert rows.tolist() == [[7, 1], [8, 2]]
    assert lines == [2, 3]


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (TABLE[TABLE.index(b'7') :], ":1: expected a header line above .*'7,1,img"),
        (
            TABLE + b'9,3',
            ":4: the last line has fewer fields .* got '9,3'",
        ),
        (TABLE + b'9', ":4: expected `name x y id`, got '9'"),
        (TABLE + b'9,x', ":4: expected .* got '9,x'"),
        (b'T,S\n', ': has no line'),
        (b'', ': has no line'),
    ],
)
def test_bad_tables(tmp_path, data, message):
    with pytest.raises(UserError, match=r'list\.txt' + message):
        read_integers(write(tmp_path, data), 2, '`name x y id`')


def test_lines_of_rows(tmp_path):
    path = write(tmp_path, b'\n' + GOOD.replace(b'\n', b'\n\n'))
    assert [line_of(path, row) for row in (0, 1)] == [2, 4]


PIECES = [b'c 1 2 3\n', b'c,1,2\n', b'"\n', b'1e5', b'0x1', b'1_0', b'\r', b'nan ']


@settings(max_examples=200, deadline=None)
@given(any_bytes([GOOD, TABLE], PIECES), st.booleans())
def test_any_bytes_end_in_rows_or_an_error(tmp_path_factory, content, table):
    path = tmp_path_factory.getbasetemp() / 'any.txt'
    path.write_bytes(content)
    try:
        if table:
            rows, _ = read_integers(str(path), 2, 'a line')
        else:
            rows = read_rows(str(path), FIELDS, 'a line')
    except UserError as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    lines = [line for line in content.decode('utf-8-sig').splitlines() if line.strip()]
    assert 1 <= len(rows) <= len(lines)
