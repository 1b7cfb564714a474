import os

import pytest
from damaged_bytes import any_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from mmhyperface.datasets import FaceList
from mmhyperface.utils.errors import UserError

OLD = b'b/1.jpg Bob\na/1.jpg Ann\na/2.jpg Ann\n'
NEW = b'x/bob/1.jpg\nx/ann/1.jpg\nann/2.png\n'


def write(tmp_path, data):
    path = tmp_path / 'train.txt'
    path.write_bytes(data)
    return str(path)


def items(dataset):
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [(info['img_path'], info['gt_label']) for info in infos]


# Both formats -------------------------------------------------------------------


@pytest.mark.parametrize('form', ['auto', 'path name'])
def test_old_format(tmp_path, form):
    dataset = FaceList(write(tmp_path, OLD), format=form)
    assert items(dataset) == [('b/1.jpg', 1), ('a/1.jpg', 0), ('a/2.jpg', 0)]
    assert dataset.metainfo['classes'] == ('Ann', 'Bob')
    assert dataset.metainfo['num_classes'] == 2
    assert type(dataset.get_data_info(0)['gt_label']) is int
    assert dataset.get_data_info(2)['sample_idx'] == 2


@pytest.mark.parametrize('form', ['auto', 'path'])
def test_new_format_takes_the_whole_folder_as_name(tmp_path, form):
    dataset = FaceList(write(tmp_path, NEW), format=form)
    assert items(dataset) == [('x/bob/1.jpg', 2), ('x/ann/1.jpg', 1), ('ann/2.png', 0)]
    assert dataset.metainfo['classes'] == ('ann', 'x/ann', 'x/bob')


BOM = b'\xef\xbb\xbf'


@pytest.mark.parametrize(
    ('before', 'between', 'after'),
    [
        (b'', b'\r\n', b'\r\n'),
        (b'', b'\n', b''),
        (b'\n \t\n', b' \n\n', b' \n\n'),
        (BOM, b'\n', b'\n'),
        # Lists that were put together.
        (BOM * 2, b'\n' + BOM, b'\n' + BOM),
    ],
)
@pytest.mark.parametrize('data', [OLD, NEW])
def test_line_ends_bom_and_blank_lines(tmp_path, data, before, between, after):
    plain = FaceList(write(tmp_path, data))
    lines = before + between.join(data.splitlines()) + after
    mangled = FaceList(write(tmp_path, lines))
    assert items(mangled) == items(plain)
    assert mangled.metainfo == plain.metainfo


@pytest.mark.parametrize(
    ('line', 'path', 'name'),
    [
        ('my faces/a b.jpg Ann', 'my faces/a b.jpg', 'Ann'),
        ('a/1.jpg\tAnn B.', 'a/1.jpg', 'Ann B.'),
        ('a/1.jpg  Ann', 'a/1.jpg', 'Ann'),
        ('a/1.jpg\t Ann', 'a/1.jpg', 'Ann'),
        ('my faces/a b.JPG', 'my faces/a b.JPG', 'my faces'),
        ('李 小龙/脸.png', '李 小龙/脸.png', '李 小龙'),
        ('a/1.jpg 李小龙', 'a/1.jpg', '李小龙'),
        ('/abs/1.jpg', '/abs/1.jpg', '/abs'),
    ],
)
def test_spaces_and_letters(tmp_path, line, path, name):
    dataset = FaceList(write(tmp_path, line.encode()))
    assert items(dataset) == [(path, 0)]
    assert dataset.metainfo['classes'] == (name,)


def test_a_name_that_ends_as_an_image_takes_the_format(tmp_path):
    dataset = FaceList(write(tmp_path, b'a/1.tif ann.png'), format='path name')
    assert dataset.metainfo['classes'] == ('ann.png',)


@pytest.mark.parametrize(
    'line', ['./x/ann/2.jpg', 'x//ann/2.jpg', 'y/../x/ann/2.jpg', 'x/ann/./2.jpg']
)
def test_a_folder_has_one_name(tmp_path, line):
    dataset = FaceList(write(tmp_path, f'x/ann/1.jpg\nx/bob/1.jpg\n{line}'.encode()))
    assert dataset.metainfo['classes'] == ('x/ann', 'x/bob')
    assert items(dataset)[2] == (line, 0)


def test_lines_that_come_again(tmp_path, warnings):
    dataset = FaceList(write(tmp_path, OLD + OLD[:24]))
    assert [label for _, label in items(dataset)] == [1, 0, 0, 1, 0]
    assert '2 of the 5 images of' in warnings[0]
    assert "train.txt' have been listed before" in warnings[0]


def test_names_that_look_alike(tmp_path, warnings):
    names = ['Ann', 'ann', 'Zo\xeb', 'Zoe\u0308', 'Zoe']
    lines = ''.join(f'{i}.jpg {name}\n' for i, name in enumerate(names))
    dataset = FaceList(write(tmp_path, lines.encode()))
    assert dataset.metainfo['classes'] == tuple(sorted(names))
    (line,) = warnings
    assert '2 identities have the name of another' in line
    assert r"'Zoe\u0308' and 'Zo\xeb', 'Ann' and 'ann'. They count as diff" in line


def test_names_are_sorted_as_strings_and_extensions_may_be_others(tmp_path):
    lines = ''.join(f'{i}.TIF {i}\n' for i in (2, 10, 1))
    dataset = FaceList(write(tmp_path, lines.encode()), extensions='tif')
    assert dataset.metainfo['classes'] == ('1', '10', '2')
    assert [label for _, label in items(dataset)] == [2, 1, 0]


def test_roots(tmp_path):
    write(tmp_path, OLD)
    dataset = FaceList('train.txt', data_root=str(tmp_path), data_prefix='imgs')
    assert items(dataset)[0][0] == str(tmp_path / 'imgs' / 'b' / '1.jpg')
    dataset = FaceList('train.txt', data_root=str(tmp_path), data_prefix='/imgs')
    assert items(dataset)[0][0] == '/imgs/b/1.jpg'


# Lists that are no good ---------------------------------------------------------


@pytest.mark.parametrize(
    ('data', 'line', 'message'),
    [
        (OLD + b'a/3.jpg\n', 4, 'expected `relative/path name`'),
        (OLD + b'\na/3.svg Ann', 5, "'a/3.svg' does not end"),
        (OLD + b'a/3.jpg Ann Bell', 4, 'does not end'),
        (OLD + b'a/3.jpg a/4.jpg', 4, 'ends with an image'),
        (NEW + b'a/3.jpg Ann', 4, 'expected `relative/path` with'),
        (NEW + b'a/3', 4, 'does not end'),
        (b'ann.jpg', 1, 'there is no folder'),
        (b'1 a/1.jpg b/1.jpg', 1, 'there are several images'),
        (b'nonsense', 1, 'there is no name'),
        (OLD + b'a/\xff.jpg Ann', 4, 'not UTF-8'),
        (OLD.decode().encode('utf-16'), 1, 'is UTF-16'),
        (OLD.decode().encode('utf-16-le'), 1, 'a NUL'),
        (b'PK\x03\x04\xff', 1, 'takes the list before'),
        (OLD + b'x' * 2**21, 4, 'over 1048576 bytes'),
        (OLD.replace(b'\n', b'\r'), 1, 'a carriage return'),
        (OLD + b'a/4.jpg Ann\rc/1.jpg C\n', 4, 'a carriage'),
        (NEW + b'x/ann\\3.jpg', 4, 'separated by /'),
        (b'./1.jpg\n./2.jpg', 1, 'no folder'),
        (b'/1.jpg\n/2.jpg', 1, 'no folder'),
        (OLD + b'b/1.jpg Ann', 4, "'b/1.jpg' .*'Ann', and .*'Bob'"),
    ],
    ids=range(20),
)
def test_malformed(tmp_path, data, line, message):
    with pytest.raises(UserError, match=rf'train\.txt:{line}: .*{message}'):
        FaceList(write(tmp_path, data))


def test_errors_are_short(tmp_path):
    for start in (b'', OLD, NEW):
        with pytest.raises(UserError) as error:
            FaceList(write(tmp_path, start + b'x' * 500_000))
        assert len(str(error.value)) < 1200


def test_a_file_without_lines_is_not_read_to_its_end(tmp_path):
    path = write(tmp_path, b'')
    os.truncate(path, 1 << 34)
    with pytest.raises(UserError, match='over 1048576 bytes'):
        FaceList(path)


GOOD = [OLD, NEW, OLD.replace(b'\n', b'\r\n'), BOM + NEW, OLD.replace(b' ', b'\t')]
PIECES = [b'a/', b'b', b'/', b'..', b'1', b'.jpg', b' Ann\n', b'e\xcc\x88.jpg\n']


@settings(max_examples=150, deadline=None)
@given(any_bytes(GOOD, PIECES), st.sampled_from(['auto', 'path name', 'path']))
def test_any_bytes_end_in_a_list_or_an_error(tmp_path_factory, content, form):
    path = tmp_path_factory.getbasetemp() / 'any.txt'
    path.write_bytes(content)
    try:
        dataset = FaceList(str(path), format=form)
    except UserError:
        return
    classes = dataset.metainfo['classes']
    actual = items(dataset)
    lines = [line.lstrip('\ufeff').strip() for line in content.decode().split('\n')]
    assert list(classes) == sorted({classes[label] for _, label in actual})
    assert len(dict(actual)) == len(set(actual))  # one name for an image
    for (image, label), line in zip(actual, filter(None, lines), strict=True):
        if image == line:
            assert classes[label] == os.path.normpath(line.rpartition('/')[0])
        else:
            between = line.removeprefix(image).removesuffix(classes[label])
            assert between
            assert not between.strip()


def test_a_given_format_is_held_to(tmp_path):
    with pytest.raises(UserError, match=r'train\.txt:2: .*there is no name'):
        FaceList(write(tmp_path, b'a/1 Ann\nb/1'), format='path name')
    with pytest.raises(UserError, match=r'train\.txt:1: .*there is no folder'):
        FaceList(write(tmp_path, b'1'), format='path')
    with pytest.raises(UserError, match="format is 'auto'"):
        FaceList(write(tmp_path, OLD), format='old')


@pytest.mark.parametrize('data', [b'', b'\n \r\n', b'\xef\xbb\xbf'])
def test_empty_list(tmp_path, data):
    with pytest.raises(UserError, match=r"train\.txt' lists no image"):
        FaceList(write(tmp_path, data))


def test_missing_list(tmp_path):
    with pytest.raises(UserError, match=r"gone\.txt': No such file .*ann_file=\.\.\."):
        FaceList('gone.txt', data_root=str(tmp_path))
    with pytest.raises(UserError, match='Is a directory'):
        FaceList(str(tmp_path))


def test_images_that_are_missing_are_passed_over(tmp_path):
    for name in ('a', 'b/1.jpg'):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / 'a' / '2.jpg').write_bytes(b'P5 1 1 255\n\x07')
    options = dict(data_root=str(tmp_path), pipeline=[dict(type='LoadFace', size=1)])
    with pytest.raises(UserError, match=r"txt:1: no image '.*/b/1\.jpg'; 2 of 3"):
        FaceList(write(tmp_path, OLD), check_files=True, **options)
    path = write(tmp_path, b'a/2.jpg Ann')
    assert len(FaceList(path, check_files=True, **options)) == 1
    dataset = FaceList(write(tmp_path, OLD), on_error='skip', **options)
    assert [item['gt_label'] for item in map(dataset.__getitem__, range(3))] == [0] * 3
    assert [reason.split(': ')[1] for reason in dataset.skipped().values()] == [
        'cannot be read',
        "no such image. Check the data set's data_root, or take the image out of its "
        'list',
    ]
    with pytest.raises(UserError, match=r'a/1\.jpg: no such image'):
        FaceList('train.txt', **options)[1]
