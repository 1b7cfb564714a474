"""IJB-B and IJB-C in miniature: folders, files and lines as the real ones have them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from mmhyperface.datasets import SyntheticFaces
from mmhyperface.datasets.transforms.alignment import template

GALLERIES = {'IJBB': ('S1', 'S2'), 'IJBC': ('G1', 'G2')}
HEADER = 'TEMPLATE_ID,SUBJECT_ID,FILENAME,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT'


def drawn_faces(
    subjects: int, images: int, size: int = 112, **options
) -> Callable[[int, int], np.ndarray]:
    """``image(subject, number)``: uint8 [size, size, 3], a face in its standard place.

    `options` are those of SyntheticFaces; `first_identity` keeps the people apart from
    those that a network was trained on.
    """
    faces = SyntheticFaces(subjects, images, image_size=size, **options)
    return lambda subject, number: faces.get_data_info(subject * images + number)['img']


def write_ijb(
    folder: str | Path,
    subset: str = 'IJBC',
    subjects: int = 6,
    probes: int = 2,
    images: tuple[int, int] = (1, 4),
    seed: int = 0,
    image: Callable[[int, int], np.ndarray] | None = None,
    pictures: bool = True,
) -> SimpleNamespace:
    """Writes ``folder/meta`` and ``folder/loose_crop``.

    Each subject has one template in the first or the second gallery, in turns, and some
    that are probes: so a probe is mated in one gallery, and in the other one not. The
    pairs are all of a gallery's templates with all probes. Ids are not consecutive, and
    the rows of a template are scattered over the lists.

    An aligned face is turned, scaled and moved at random to make a loose crop; its
    landmarks are where the standard ones come to lie. So an aligned crop shows the face
    as it was given.

    Args:
        folder: `data_root`, which is made.
        subset: 'IJBC' or 'IJBB'.
        subjects: how many, 2 or more.
        probes: probe templates of each subject.
        images: fewest and most of a template; half of them share their media id.
        seed: of everything that is drawn.
        image: image 0, 1, … of a subject, as :func:`drawn_faces` gives them.
        pictures: False: the meta files alone.

    Returns:
        The truth. For N images: names (list of str), landmarks float32 [N, 5, 2],
        scores float32 [N], template_ids and media_ids int64 [N], image_subjects int64
        [N], numbers int64 [N] (image i is `image(image_subjects[i], numbers[i])`). For
        P pairs: pairs int64 [P, 3] of template, template, same. probes and each of
        galleries, by name: (template ids int64 [T], subject ids int64 [T]).
        subject_of: dict of template id to subject id; subject_ids: that of subject 0,
        1, …; root: the folder; image: the callable.
    """
    root = Path(folder)
    (root / 'meta').mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    sizes = np.resize(np.arange(images[0], images[1] + 1), subjects * (1 + probes))
    owners = np.arange(len(sizes)) % subjects  # the first of each is for a gallery
    ids = rng.choice(50 * len(sizes), len(sizes), replace=False) + 1
    subject_ids = rng.choice(9000, subjects, replace=False) + 1

    templates = np.repeat(np.arange(len(sizes)), sizes)
    templates = rng.permutation(templates)
    image_subjects = owners[templates]
    truth = SimpleNamespace(
        root=root,
        names=[f'{number + 1}.jpg' for number in range(len(templates))],
        landmarks=np.empty((len(templates), 5, 2), np.float32),
        scores=rng.uniform(0.3, 1, len(templates)).round(3).astype(np.float32),
        template_ids=ids[templates],
        media_ids=_media(rng, templates),
        image_subjects=image_subjects,
        numbers=np.array(
            [(image_subjects[:i] == s).sum() for i, s in enumerate(image_subjects)]
        ),
        subject_ids=subject_ids,
        subject_of=dict(zip(ids.tolist(), subject_ids[owners].tolist(), strict=True)),
    )
    first, second = GALLERIES[subset]
    truth.galleries = {
        name: (ids[part:subjects:2], subject_ids[part:subjects:2])
        for part, name in enumerate((first, second))
    }
    truth.probes = ids[subjects:], subject_ids[owners[subjects:]]
    truth.pairs = np.array(
        [
            (one, other, truth.subject_of[one] == truth.subject_of[other])
            for one in ids[:subjects].tolist()
            for other in ids[subjects:].tolist()
        ],
        np.int64,
    )
    most = np.bincount(image_subjects).max()
    truth.image = image or drawn_faces(subjects, int(most), seed=seed)
    _write_crops(rng, truth, pictures)
    _write_meta(truth, subset.lower())
    return truth


def _media(rng: np.random.Generator, templates: np.ndarray) -> np.ndarray:
    """Images with the lower media ids are frames, one video to a template."""
    videos = rng.random(len(templates)) < 0.5
    return np.where(videos, 100 + templates, 10_000 + np.arange(len(templates)))


def _write_crops(
    rng: np.random.Generator, truth: SimpleNamespace, pictures: bool
) -> None:
    if pictures:
        (truth.root / 'loose_crop').mkdir(exist_ok=True)
    for i, name in enumerate(truth.names):
        angle, scale = rng.uniform(-0.4, 0.4), rng.uniform(0.8, 1.6)
        left, right, top, bottom = rng.integers(3, 25, 4)
        side = 112
        if pictures:
            face = truth.image(truth.image_subjects[i], truth.numbers[i])
            side = len(face)
        c, s = scale * np.cos(angle), scale * np.sin(angle)
        turn = np.array([[c, -s], [s, c]])
        corners = np.array([[0, 0], [side, 0], [0, side], [side, side]]) @ turn.T
        shift = np.array([left, top]) - corners.min(0)
        width, height = np.ceil(np.ptp(corners, axis=0)).astype(int) + 1
        points = template(side, side) @ turn.T + shift
        truth.landmarks[i] = points.round(3)
        if pictures:
            crop = cv2.warpAffine(
                face,
                np.column_stack([turn, shift]),
                (int(width + left + right), int(height + top + bottom)),
                borderMode=cv2.BORDER_REPLICATE,
            )
            path = truth.root / 'loose_crop' / name
            cv2.imwrite(str(path), crop, [cv2.IMWRITE_JPEG_QUALITY, 95])


def _write_meta(truth: SimpleNamespace, prefix: str) -> None:
    meta = truth.root / 'meta'
    points = truth.landmarks.reshape(-1, 10).astype(np.float64)
    _write(
        meta / f'{prefix}_name_5pts_score.txt',
        (
            ' '.join([name, *(f'{x:.3f}' for x in row), f'{score:.3f}'])
            for name, row, score in zip(truth.names, points, truth.scores, strict=True)
        ),
    )
    of_images = zip(truth.names, truth.template_ids, truth.media_ids, strict=True)
    _write(
        meta / f'{prefix}_face_tid_mid.txt',
        (f'{name} {template} {media}' for name, template, media in of_images),
    )
    _write(
        meta / f'{prefix}_template_pair_label.txt',
        (f'{one} {other} {same}' for one, other, same in truth.pairs),
    )
    for name, (ids, _) in truth.galleries.items():
        _write_images(meta / f'{prefix}_1N_gallery_{name}.csv', truth, ids)
    _write_images(meta / f'{prefix}_1N_probe_mixed.csv', truth, truth.probes[0])


def _write_images(path: Path, truth: SimpleNamespace, ids: np.ndarray) -> None:
    """One line for each image, so that the templates repeat."""
    lines = [
        f'{template},{truth.subject_of[template]},img/{name},10,20,30,40'
        for template in ids.tolist()
        for name, own in zip(truth.names, truth.template_ids, strict=True)
        if own == template
    ]
    _write(path, [HEADER, *lines])


def _write(path: Path, lines: Sequence[str]) -> None:
    path.write_text(''.join(f'{line}\n' for line in lines))
