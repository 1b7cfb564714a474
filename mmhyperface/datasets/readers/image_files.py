"""Which files are images: by name, and by what they begin with."""

import os
import re

#: What the name of an image ends with, in any case, wherever a folder is walked.
IMAGE_EXTENSIONS = (
    *('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.webp'),
    *('.pgm', '.ppm', '.pbm', '.tif', '.tiff', '.gif', '.jp2', '.avif'),
    *('.heic', '.heif'),
)
# What align_faces.py writes beside its crops, and systems beside pictures.
_OF_NO_ACCOUNT = (
    *('landmarks.tsv', 'not_aligned.tsv', 'thumbs.db', 'desktop.ini'),
    *('@eadir', '__macosx', 'lost+found'),
)
_BEGINNINGS = re.compile(
    rb'\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|BM.{4}\0{4}|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]'
    rb'|P[1-6]\s+[\d#]|\0{3}\x0cjP  |\xff\x0a|\0{3}\x0cJXL |8BPS\0|FUJIFILMCCD-RAW'
    rb'|.{4}ftyp(?:hei[cfmsx]|hev[cmsx]|mi[fa]\d|msf1|avi[fs]|crx )',
    re.DOTALL,
)
# Brands of the container of which AVIF is another content.
_HEIC = (b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'hevm', b'hevs')


def is_of_no_account(name: str) -> bool:
    """Whether a file or folder of that name is passed over without a word."""
    return name.startswith('.') or name.lower() in _OF_NO_ACCOUNT


def is_image_name(name: str) -> bool:
    """Whether a name ends as that of an image."""
    return name.lower().endswith(IMAGE_EXTENSIONS)


def begins_as_image(path: str) -> bool:
    """Whether a file begins as images do, of more types than can be read."""
    if not os.path.isfile(path):  # a pipe would keep us waiting
        return False
    try:
        with open(path, 'rb') as file:
            return _BEGINNINGS.match(file.read(32)) is not None
    except OSError:  # as whoever reads it will tell
        return False


def is_heic(data: bytes) -> bool:
    """Whether encoded bytes are HEIC, as phones store photographs."""
    if data[4:8] != b'ftyp':
        return False
    end = min(int.from_bytes(data[:4], 'big'), 256)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]
    return any(brand in _HEIC for brand in brands)
