"""Pictures written by Pillow and OpenCV, read as an inferencer reads them."""

import io
import re
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, features

from mmhyperface.datasets.transforms import decode_face
from mmhyperface.inference.pictures import orientation_of, read_picture
from mmhyperface.utils.errors import UserError


def some_pixels(height=24, width=40):
    """Smooth, so that JPEG keeps them."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.GaussianBlur(noise, (9, 9), 3)


PIXELS = some_pixels()


def encode(kind, image=None, **options):
    image = Image.fromarray(PIXELS[..., ::-1]) if image is None else image
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(tmp_path, data, **options):
    path = tmp_path / 'picture'
    path.write_bytes(data)
    return read_picture(path, 'picture', **options)


@pytest.mark.parametrize(
    ('kind', 'options'),
    [('PNG', {}), ('BMP', {}), ('TIFF', {}), ('PPM', {}), ('WEBP', {'lossless': True})],
)
def test_files_of_all_kinds(tmp_path, kind, options):
    picture = read(tmp_path, encode(kind, **options))
    np.testing.assert_array_equal(picture.pixels, PIXELS)
    assert (picture.turns, picture.remarks) == (0, ())


@pytest.mark.parametrize('kind', ['PNG', 'BMP', 'TIFF', 'PPM', 'WEBP', 'JPEG', 'GIF'])
@pytest.mark.parametrize('left', [0, 3, 20, 0.5, -40])
def test_files_that_are_cut_off(tmp_path, kind, left):
    data = encode(kind)
    end = round(left * len(data)) if isinstance(left, float) else left
    with pytest.raises(UserError, match=r'^picture: '):
        read(tmp_path, data[:end])


def test_a_damaged_jpeg_is_told(tmp_path):
    pytest.importorskip('simplejpeg')
    image = Image.fromarray(some_pixels(112, 112))
    data = encode('JPEG', image, quality=98)
    middle = len(data) // 2
    with pytest.raises(UserError, match=r'picture: the JPEG is damaged: .*premature'):
        read(tmp_path, data[:middle] + b'\xff\xd9' + data[middle:])
    assert read(tmp_path, data).pixels.shape == (112, 112, 3)


@pytest.mark.parametrize(
    'data', [b'', b'hello\n', b'\xff\xd8', b'version https://git-lfs', b'\0' * 500]
)
def test_what_is_no_picture(tmp_path, data):
    message = 'picture: (the file is empty|is no picture)'
    with pytest.raises(UserError, match=message):
        read(tmp_path, data)


def test_what_is_no_file(tmp_path):
    for path, message in (
        (tmp_path / 'none.png', 'x: there is no such file'),
        (tmp_path, r'x: cannot be read: .*directory'),
        ('a\0b', 'x: cannot be read: '),
    ):
        with pytest.raises(UserError, match=message):
            read_picture(path, 'x')


def png_of_size(width, height):
    """Of a PNG file that tells of this size, though it has few pixels."""
    data = encode('PNG')
    header = b'IHDR' + struct.pack('>II', width, height) + data[24:29]
    return data[:12] + header + struct.pack('>I', zlib.crc32(header)) + data[33:]


def test_too_many_pixels_are_not_decoded(tmp_path, monkeypatch):
    data = encode('PNG')
    assert read(tmp_path, data, max_megapixels=960e-6).pixels.shape == (24, 40, 3)
    monkeypatch.setattr(cv2, 'imdecode', None)
    with pytest.raises(UserError, match=r'more than 0\.000959'):
        read(tmp_path, data, max_megapixels=959e-6)
    with pytest.raises(UserError, match=r'picture: has 100\.0 megapixels'):
        read(tmp_path, png_of_size(10_000, 10_000))
    with pytest.raises(UserError, match=r'picture: .*200000000 pixels'):
        read(tmp_path, png_of_size(20_000, 10_000), max_megapixels=1e4)


def test_cmyk_is_converted_and_told(tmp_path):
    image = Image.fromarray(PIXELS[..., ::-1]).convert('CMYK')
    for kind, most in (('TIFF', 0), ('JPEG', 8)):
        picture = read(tmp_path, encode(kind, image))
        away = np.abs(picture.pixels.astype(int) - PIXELS).mean()
        assert away <= most
        assert picture.remarks == ('CMYK is converted without a colour profile',)


@pytest.mark.parametrize('ending', ['.png', '.tiff', '.ppm', '.pgm'])
def test_16_bits_become_8_and_this_is_told(tmp_path, ending):
    deep = PIXELS.astype(np.uint16) * 16 + 5
    if ending == '.pgm':
        deep = deep[..., 0]
    picture = read(tmp_path, cv2.imencode(ending, deep)[1].tobytes())
    wanted = deep >> 8 if deep.ndim == 3 else (deep >> 8)[..., None]
    # TIFF is rounded.
    assert np.abs(picture.pixels.astype(int) - wanted).max() <= (ending == '.tiff')
    (remark,) = picture.remarks
    brightest = picture.pixels.max()
    assert remark.endswith(f'the brightest value left is {brightest} of 255')


@pytest.mark.parametrize('mode', ['LA', 'RGBA'])
def test_alpha_is_dropped_and_this_is_told(tmp_path, mode):
    image = Image.fromarray(PIXELS[..., ::-1]).convert(mode)
    image.putalpha(0)
    picture = read(tmp_path, encode('PNG', image))
    assert picture.pixels.any()
    assert picture.remarks == ('alpha is dropped, not blended',)


@pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
def test_the_first_of_several_frames_is_taken(tmp_path, kind):
    others = [Image.fromarray(PIXELS // 2)] * 2
    data = encode(kind, save_all=True, append_images=others)
    picture = read(tmp_path, data)
    np.testing.assert_array_equal(picture.pixels, PIXELS)
    assert picture.remarks == ('the first of 3 frames is taken',)


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP', 'TIFF', 'AVIF'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_tells_how_a_picture_stands_upright(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    # Bright on the left and darker to the bottom, as viewers show it.
    rows, columns = np.mgrid[:32, :48]
    shown = (255 - 4 * columns - rows).astype(np.uint8)
    mirrored = orientation in (2, 4, 5, 7)
    if mirrored:
        shown = shown[:, ::-1]
    turns = {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}.get(orientation, 0)
    image = Image.fromarray(np.ascontiguousarray(np.rot90(shown, -turns)))
    if kind == 'AVIF' and not features.check('avif'):
        pytest.skip('this Pillow has no AVIF')
    data = encode(kind, image, exif=exif)
    picture = read(tmp_path, data)
    if kind == 'TIFF':  # which OpenCV brings upright by itself
        assert (picture.turns, picture.remarks) == orientation_of(data) == (0, ())
        return
    away = np.abs(picture.upright[..., 0].astype(int) - shown).max()
    assert away <= (0 if kind == 'PNG' else 12)
    assert (picture.turns, picture.remarks) == orientation_of(data)
    assert (picture.turns, len(picture.remarks)) == (turns, mirrored)


def test_an_orientation_that_is_not_known_is_told(tmp_path):
    unknown = 'the orientation of a .* is not known.*'
    exif = Image.Exif()
    exif[0x112] = 9
    large = np.tile(PIXELS, (3, 3, 1))
    for data, message in (
        (cv2.imencode('.jp2', large)[1].tobytes(), unknown),
        (cv2.imencode('.ras', large)[1].tobytes(), unknown),
        (encode('PNG', exif=exif), '.* an orientation 9;.*'),
    ):
        picture = read(tmp_path, data)
        assert (picture.turns, picture.remarks) == orientation_of(data)
        assert picture.turns == 0
        assert re.fullmatch(message, *picture.remarks)
    # Pillow cannot read this one.
    turns, remarks = orientation_of(cv2.imencode('.hdr', PIXELS)[1].tobytes())
    assert turns == 0
    assert re.fullmatch(unknown, *remarks)


def test_arrays():
    grey = PIXELS[..., 0]
    assert (read_picture(grey, 'x').pixels == grey[..., None]).all()
    assert (read_picture(PIXELS, 'x').pixels == PIXELS).all()
    with_alpha = np.dstack([PIXELS, grey])
    picture = read_picture(with_alpha, 'x')
    assert (picture.pixels == PIXELS).all()
    assert picture.remarks == ('alpha is dropped, not blended',)
    for wrong in (PIXELS / 255, PIXELS[None], PIXELS[..., :2], PIXELS[:0]):
        with pytest.raises(UserError, match='x: expected a uint8 array'):
            read_picture(wrong, 'x')


def heic(image, orientation=1):
    """As phones store it: turned by its own means, whatever EXIF says besides."""
    library = pytest.importorskip('pillow_heif')
    exif = Image.Exif()
    exif[0x112] = orientation
    file = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    library.from_pillow(picture).save(file, quality=95, exif=exif.tobytes())
    return file.getvalue()


def test_heic_is_upright(tmp_path):
    path = tmp_path / 'a.jpg'  # whatever its name
    image = some_pixels(64, 48)
    for orientation, turns in ((1, 0), (6, -1)):
        path.write_bytes(heic(image, orientation))
        picture = read_picture(path, 'a.jpg')
        assert (picture.turns, picture.remarks) == (0, ())
        wanted = np.rot90(image, turns).astype(int)
        assert np.abs(picture.pixels - wanted).mean() < 4
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r'a.jpg: .*damaged'):
        read_picture(path, 'a.jpg')


def test_heic_without_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    path = tmp_path / 'a.heic'
    path.write_bytes(b'\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf')
    for read in (
        lambda: read_picture(path, 'a.heic'),
        lambda: decode_face(path.read_bytes(), 'a.heic'),
    ):
        with pytest.raises(UserError, match=r'a.heic: is HEIC.*pip install pillow-h'):
            read()
