import struct
import zlib

import cv2
import numpy as np
import pytest

from mmhyperface.datasets import FaceFolder
from mmhyperface.datasets.transforms import LoadFace, decode_face, loading
from mmhyperface.utils.errors import UserError

BLUE_RED = np.array([[[200, 10, 20], [5, 6, 250]]], np.uint8)  # 1 x 2, BGR


def png(rows, bit_depth, color_type):
    """A PNG written chunk by chunk; color_type 0 grey, 2 RGB, 4 grey+A, 6 RGBA."""
    rows = np.asarray(rows, '>u2' if bit_depth == 16 else 'u1')

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', crc)

    height, width = rows.shape[:2]
    header = struct.pack('>IIBBBBB', width, height, bit_depth, color_type, 0, 0, 0)
    data = zlib.compress(b''.join(b'\0' + row.tobytes() for row in rows))
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', data)
        + chunk(b'IEND', b'')
    )


def encoded(extension, image, *params):
    return cv2.imencode(extension, image, params)[1].tobytes()


def smooth(height, width):
    rng = np.random.RandomState(0)
    small = rng.randint(0, 256, (3, 3, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def load(path, data, **kwargs):
    path.write_bytes(data)
    return LoadFace(**kwargs)(dict(img_path=str(path)))


@pytest.fixture(params=['simplejpeg', 'opencv'])
def _decoder(request, monkeypatch):
    if request.param == 'opencv':
        monkeypatch.setattr(loading, 'simplejpeg', None)
    elif loading.simplejpeg is None:
        pytest.skip('simplejpeg is not installed')


both_decoders = pytest.mark.usefixtures('_decoder')


# Decoding -----------------------------------------------------------------------


@pytest.mark.parametrize('quality', [30, 90, 100])
@pytest.mark.parametrize('progressive', [0, 1])
@pytest.mark.parametrize(
    'sampling',
    [
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
        None,  # grey
    ],
)
def test_the_decoders_give_the_same_pixels(quality, progressive, sampling, monkeypatch):
    pytest.importorskip('simplejpeg')
    noise = np.random.default_rng(quality).integers(-30, 31, (93, 61, 3))
    image = np.clip(smooth(93, 61) + noise, 0, 255).astype(np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    if sampling is None:
        image = image[:, :, 0]
    else:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    options += [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    data = encoded('.jpg', image, *options)
    fast = loading._decode_jpeg(data)
    assert fast is not None
    monkeypatch.setattr(loading, 'simplejpeg', None)
    np.testing.assert_array_equal(fast, decode_face(data, ''))


def test_a_forged_size_is_not_allocated():
    """65,500 x 65,500 pixels in the header of a small file."""
    data = bytearray(encoded('.jpg', smooth(64, 64)))
    at = data.index(b'\xff\xc0') + 5
    data[at : at + 4] = struct.pack('>HH', 65500, 65500)
    assert loading._decode_jpeg(bytes(data)) is None
    with pytest.raises(UserError, match='cannot be decoded'):
        decode_face(bytes(data), 'forged.jpg')


@pytest.mark.parametrize(
    ('data', 'expected'),
    [
        (b'P5\n2 1\n255\n\x00\x7f', [[0] * 3, [127] * 3]),
        (b'P5\n2 1\n65535\n\x12\x34\xff\xff', [[0x12] * 3, [255] * 3]),
        (png([[1, 254]], 8, 0), [[1] * 3, [254] * 3]),
        (png([[0x0102, 0xFFFF]], 16, 0), [[1] * 3, [255] * 3]),
        (png([[[1, 2, 3], [4, 5, 6]]], 8, 2), [[3, 2, 1], [6, 5, 4]]),
        (
            png([[[0x100, 0x200, 0x300], [0, 0, 0xFFFF]]], 16, 2),
            [[3, 2, 1], [255, 0, 0]],
        ),
        # Alpha is dropped, not blended.
        (png([[[1, 2, 3, 0], [4, 5, 6, 128]]], 8, 6), [[3, 2, 1], [6, 5, 4]]),
        (png([[[9, 0], [8, 255]]], 8, 4), [[9] * 3, [8] * 3]),
        (encoded('.bmp', BLUE_RED), BLUE_RED[0]),
        (encoded('.webp', BLUE_RED, cv2.IMWRITE_WEBP_QUALITY, 101), BLUE_RED[0]),
    ],
    ids=range(10),
)
def test_types_and_depths(tmp_path, data, expected):
    results = load(tmp_path / '人脸 Zoë 1.any', data, size=(1, 2), resize=False)
    assert results['img'].dtype == np.uint8
    np.testing.assert_array_equal(results['img'], [expected])
    assert results['img_shape'] == results['ori_shape'] == (1, 2)


@both_decoders
def test_jpeg(tmp_path):
    image = smooth(112, 112)
    results = load(tmp_path / 'face.jpg', encoded('.jpg', image))
    assert results['img'].shape == (112, 112, 3)
    assert np.abs(results['img'].astype(int) - image).mean() < 3


@both_decoders
def test_exif_orientation_is_ignored(tmp_path):
    tag = struct.pack('<HHII', 0x0112, 3, 1, 6)  # orientation 6: turn by 90 degrees
    tiff = b'II*\0' + struct.pack('<IH', 8, 1) + tag + struct.pack('<I', 0)
    app1 = b'\xff\xe1' + struct.pack('>H', 2 + 6 + len(tiff)) + b'Exif\0\0' + tiff
    jpeg = encoded('.jpg', smooth(20, 40))
    turned = jpeg[:2] + app1 + jpeg[2:]
    honoured = cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)
    assert honoured.shape == (40, 20, 3)  # the tag is well-formed

    results = load(tmp_path / 'turned.jpg', turned, size=(20, 40), resize=False)
    assert results['img_shape'] == (20, 40)


# Files that are no good ---------------------------------------------------------


@both_decoders
@pytest.mark.parametrize('progressive', [0, 1])
@pytest.mark.parametrize('keep', [0.3, 0.7, -40, -2])
def test_cut_jpeg(tmp_path, progressive, keep):
    data = encoded('.jpg', smooth(64, 64), cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    data = data[: int(keep * len(data)) if keep > 0 else keep]
    with pytest.raises(UserError, match=r'half\.jpg: .*(cut off|cannot be decoded)'):
        load(tmp_path / 'half.jpg', data)


@both_decoders
def test_cut_jpeg_with_a_whole_thumbnail(tmp_path):
    thumbnail = encoded('.jpg', smooth(8, 8))
    app1 = b'\xff\xe1' + struct.pack('>H', 2 + len(thumbnail)) + thumbnail
    jpeg = encoded('.jpg', smooth(64, 64))
    whole = jpeg[:2] + app1 + jpeg[2:]
    assert load(tmp_path / 'a.jpg', whole)['ori_shape'] == (64, 64)
    with pytest.raises(UserError, match='cut off'):
        load(tmp_path / 'a.jpg', whole[:-100])


@both_decoders
def test_any_bytes_after_the_end_of_a_jpeg(tmp_path):
    """As those of a film that telephones put there."""
    jpeg = encoded('.jpg', smooth(64, 64))
    film = np.random.default_rng(0).bytes(10**6) + b'\xff\xda'
    for tail in (film, bytes(100)):
        assert load(tmp_path / 'a.jpg', jpeg + tail)['ori_shape'] == (64, 64)


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'', 'the file is empty'),
        (b'<html>404</html>', 'cannot be decoded .*16 bytes, starting with b.<html>40'),
        (b'\xff\xd8', 'cut off'),
        (b'P5\n4 4\n255\n\x00', 'cannot be decoded'),
        (png([[1, 2]], 8, 0)[:-20], 'cannot be decoded'),
        (b'P5\n1000000 1000000\n255\n\x00', 'cannot be decoded'),
    ],
)
def test_no_image(tmp_path, data, message):
    with pytest.raises(UserError, match=r'bad\.jpg: .*' + message):
        load(tmp_path / 'bad.jpg', data)


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(UserError, match=r'gone\.jpg: no such image\. .*data_root'):
        LoadFace()(dict(img_path=str(tmp_path / 'gone.jpg')))
    with pytest.raises(UserError, match=f'{tmp_path}: cannot be read: Is a directory'):
        LoadFace()(dict(img_path=str(tmp_path)))


# Sizes --------------------------------------------------------------------------


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (97, 61), (112, 92), (250, 250)])
def test_any_size_becomes_the_size(tmp_path, height, width):
    image = smooth(height, width)
    results = load(tmp_path / 'a.png', encoded('.png', image), size=(112, 96))
    assert results['img'].shape == (112, 96, 3)
    assert results['img'].dtype == np.uint8
    assert results['img_shape'] == (112, 96)
    assert results['ori_shape'] == (height, width)
    assert abs(results['img'].mean() - image.mean()) < 4


def test_shrinking_averages_and_growing_interpolates():
    board = np.indices((4, 4)).sum(0).astype(np.uint8) % 2 * 200
    np.testing.assert_array_equal(LoadFace(2)(dict(img=board))['img'], 100)
    step = np.array([[0, 200]], np.uint8)
    row = LoadFace((1, 4))(dict(img=step))['img'][0, :, 0]
    np.testing.assert_array_equal(row, [0, 50, 150, 200])


def test_another_size_is_refused_without_resizing(tmp_path):
    with pytest.raises(UserError, match=r'a\.png: .* 97x61, expected 112x112'):
        load(tmp_path / 'a.png', encoded('.png', smooth(97, 61)), resize=False)


@pytest.mark.parametrize('resize', [False, True])
def test_without_a_size_each_image_keeps_its_own(tmp_path, resize):
    for height, width in ((97, 61), (1, 1), (112, 112)):
        image = smooth(height, width)
        data = encoded('.png', image)
        results = load(tmp_path / 'noextension', data, size=None, resize=resize)
        np.testing.assert_array_equal(results['img'], image)
        assert results['img_shape'] == results['ori_shape'] == (height, width)
    assert repr(LoadFace(None)) == 'LoadFace(size=None, resize=True)'


@pytest.mark.parametrize('size', [0, (112,), (112, 112, 3), (112, -1), (1.5, 2)])
def test_bad_size(size):
    with pytest.raises(UserError, match='size is'):
        LoadFace(size)


# Arrays -------------------------------------------------------------------------


@pytest.mark.parametrize('shape', [(2, 3), (2, 3, 1), (2, 3, 3), (2, 3, 4)])
def test_arrays(shape):
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    before = image.copy()
    loaded = LoadFace((2, 3))(dict(img=image, img_path='of no use'))['img']
    planes = image.reshape(2, 3, -1)
    for channel in range(3):
        source = 0 if planes.shape[2] == 1 else channel
        np.testing.assert_array_equal(loaded[..., channel], planes[..., source])
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    'array',
    [
        np.zeros((2, 3), np.float32),
        np.zeros((2, 3, 3), np.uint16),
        np.zeros((2, 3, 2), np.uint8),
        np.zeros((0, 3, 3), np.uint8),
        np.zeros(7, np.uint8),
    ],
)
def test_arrays_of_other_kinds(array):
    with pytest.raises(UserError, match='expected a uint8 array'):
        LoadFace()(dict(img=array))


# In a pipeline ------------------------------------------------------------------


def test_packed(tmp_path):
    (tmp_path / 'ann').mkdir()
    (tmp_path / 'ann' / '1.png').write_bytes(png([[[1, 2, 3], [4, 5, 6]]], 8, 2))
    dataset = FaceFolder(
        str(tmp_path),
        pipeline=[
            dict(type='LoadFace', size=(1, 2)),
            dict(type='RandomFlip', prob=1.0),
            dict(type='PackInputs'),
        ],
    )
    item = dataset[0]
    assert item['inputs'].shape == (3, 1, 2)
    assert str(item['inputs'].dtype) == 'torch.uint8'
    assert item['inputs'].tolist() == [[[6, 3]], [[5, 2]], [[4, 1]]]  # BGR, flipped
    sample = item['data_samples']
    assert sample.gt_label.tolist() == [0]
    assert sample.sample_idx == 0
    assert sample.img_shape == sample.ori_shape == (1, 2)
    assert sample.img_path == str(tmp_path / 'ann' / '1.png')
