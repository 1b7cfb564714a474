"""RecordIO files written byte by byte from the format's definition."""

import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

MAGIC = b'\x0a\x23\xd7\xce'


def chunk(kind: int, data: bytes) -> bytes:
    padding = b'\0' * ((4 - len(data) % 4) % 4)
    return MAGIC + struct.pack('<I', kind * 2**29 + len(data)) + data + padding


def header(label: float | Sequence[float], key: int) -> bytes:
    if isinstance(label, int | float):
        return struct.pack('<IfQQ', 0, label, key, 0)
    array = struct.pack(f'<{len(label)}f', *label)
    return struct.pack('<IfQQ', len(label), 0.0, key, 0) + array


def split(content: bytes) -> bytes:
    """A record in chunks: the magic goes wherever it stands at a multiple of 4."""
    parts, part = [], b''
    at = 0
    while at < len(content):
        if at % 4 == 0 and content[at : at + 4] == MAGIC:
            parts.append(part)
            part, at = b'', at + 4
        else:
            part += content[at : at + 1]
            at += 1
    parts.append(part)
    if len(parts) == 1:
        return chunk(0, parts[0])
    kinds = [1] + [2] * (len(parts) - 2) + [3]
    return b''.join(chunk(k, p) for k, p in zip(kinds, parts, strict=True))


def picture(seed: int, size: int = 16, quality: int = 90) -> bytes:
    """A JPEG whose average colour tells its seed, up to 8 * 8 * 8 - 1."""
    colour = [16 + 30 * (seed // 8**i % 8) for i in range(3)]
    noise = np.random.default_rng(seed).integers(-6, 7, (size, size, 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode('.jpg', pixels, options)[1].tobytes()


def seed_of(image: np.ndarray) -> int:
    mean = image.reshape(-1, 3).mean(0)
    return int(sum(round((m - 16) / 30) * 8**i for i, m in enumerate(mean)))


def insightface_records(
    images: Sequence[Sequence[bytes]], arrays: bool = False
) -> list[tuple[int, bytes]]:
    """Keys and contents in the order of insightface's writer: images by identity,
    identities, then key 0."""
    records: list[tuple[int, bytes]] = []
    ranges = []
    key = 1
    for label, of_one in enumerate(images):
        ranges.append((key, key + len(of_one)))
        for image in of_one:
            value = [float(label), 0.0] if arrays else float(label)
            records.append((key, header(value, key) + image))
            key += 1
    first = key
    for of_one in ranges:
        records.append((key, header([float(k) for k in of_one], key)))
        key += 1
    records.append((0, header([float(first), float(key)], 0)))
    return records


def write(
    folder: Path,
    records: Sequence[tuple[int, bytes]],
    num_classes: int | None = None,
    index: bool = True,
) -> Path:
    """``train.rec`` with its index and ``property``; the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    content, lines = b'', []
    for key, record in records:
        lines.append(f'{key}\t{len(content)}\n')
        content += split(record)
    (folder / 'train.rec').write_bytes(content)
    if index:
        (folder / 'train.idx').write_text(''.join(lines))
    if num_classes is not None:
        (folder / 'property').write_text(f'{num_classes},112,112')
    return folder / 'train.rec'


def images(identities: int, each: int) -> list[list[bytes]]:
    return [
        [picture(label * each + i) for i in range(each)] for label in range(identities)
    ]
