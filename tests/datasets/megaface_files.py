"""MegaFace in miniature: the folders, the lists and the lines of the real one."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from ijb_files import drawn_faces


def write_megaface(
    folder: str | Path,
    subjects: int = 4,
    images: int = 3,
    distractors: int = 12,
    noisy_probes: int = 1,
    noisy_distractors: int = 2,
    seed: int = 0,
    image: Callable[[int, int], np.ndarray] | None = None,
    as_json: bool = False,
    pictures: bool = True,
) -> SimpleNamespace:
    """Writes insightface's testpack: lists, folders of images and lists of noise.

    Args:
        folder: `data_root`, which is made.
        subjects: identities of the probes.
        images: of each identity.
        distractors: how many, each of another person.
        noisy_probes: how many of the probes are listed as noise: the first ones.
        noisy_distractors: likewise, the last ones.
        seed: of the faces.
        image: as :func:`ijb_files.drawn_faces`; from subject `subjects` on number 0 is
            a distractor.
        as_json: lists as the devkit has them, under the same names.
        pictures: False: the lists alone.

    Returns:
        The truth. probes and distractors: lists of relative paths in the order of the
        lists; probe_subjects: list of int, counted from 0; noisy_probes and
        noisy_distractors: lists of bool; root: the folder; image: the callable.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    truth = SimpleNamespace(
        root=root,
        probes=[
            f'Person_{subject:02d}/Person_{subject:02d}_{3 * number + 1}.jpg'
            for subject in range(subjects)
            for number in range(images)
        ],
        probe_subjects=[s for s in range(subjects) for _ in range(images)],
        distractors=[
            f'{i // 4}/{4800 + i}@N0{i % 3}/{i * i + 7}_0.jpg'
            for i in range(distractors)
        ],
        image=image or drawn_faces(subjects + distractors, images, seed=seed),
    )
    truth.noisy_probes = [i < noisy_probes for i in range(len(truth.probes))]
    truth.noisy_distractors = [
        i >= distractors - noisy_distractors for i in range(distractors)
    ]
    _write_list(
        root / 'facescrub_lst',
        truth.probes,
        [path.split('/')[0] for path in truth.probes],
        as_json,
    )
    _write_list(root / 'megaface_lst', truth.distractors, truth.distractors, as_json)
    names = [path.split('/')[1] for path in truth.probes[:noisy_probes]]
    (root / 'facescrub_noises.txt').write_text(
        ''.join(f'{line}\n' for line in ['# faces of others', *names])
    )
    noise = [
        f'{i}\t{path}' if i % 2 else path
        for i, path in enumerate(truth.distractors)
        if truth.noisy_distractors[i]
    ]
    (root / 'megaface_noises.txt').write_text(
        ''.join(f'{line}\n' for line in ['# faces of probes', *noise])
    )
    if pictures:
        for i, path in enumerate(truth.probes):
            face = truth.image(truth.probe_subjects[i], i % images)
            _write_image(root / 'facescrub_images' / path, face)
        for i, path in enumerate(truth.distractors):
            _write_image(root / 'megaface_images' / path, truth.image(subjects + i, 0))
    return truth


def write_feature(path: str | Path, values: np.ndarray, extra: float | None = None):
    """A feature file of the devkit; `extra` is what marks noise in a cleaned one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = list(map(float, values)) + ([] if extra is None else [extra])
    path.write_bytes(struct.pack(f'<4i{len(data)}f', len(data), 1, 4, 5, *data))


def _write_list(path: Path, paths: list[str], ids: list[str], as_json: bool) -> None:
    if as_json:
        path.write_text(json.dumps(dict(id=ids, path=paths)))
    else:
        path.write_text(''.join(f'{line}\n' for line in paths))


def _write_image(path: Path, face: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), face, [cv2.IMWRITE_JPEG_QUALITY, 95])
