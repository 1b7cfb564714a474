"""Answers as HTML: everything that a user or a file has named is escaped."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

import cv2
import numpy as np

from mmhyperface.weights.convention import Convention, OperatingPoint

# Pixels of the longest side: a screen shows no more of a picture, and a smaller one is
# enlarged, for the sake of what is drawn on it.
LARGEST_PICTURE, SMALLEST_PICTURE = 900, 240
SIGNS = {'same': '✓', 'different': '✕', 'open': '?'}
ANSWERS = {
    'same': 'Same person',
    'different': 'Different people',
    'open': 'No decision',
}
TAGS = {'same': 'known', 'different': 'not enrolled', 'open': 'nearest, not decided'}


def hint(text: str) -> str:
    return f'<p class="hint">{escape(text)}</p>'


def message(text: str, kind: str = 'wrong') -> str:
    """A message of a kind, ``wrong`` or ``done``."""
    sign, role = ('!', 'alert') if kind == 'wrong' else ('✓', 'status')
    return (
        f'<div class="message {kind}" role="{role}">'
        f'<span class="sign" aria-hidden="true">{sign}</span>'
        f'<span>{escape(text)}</span></div>'
    )


def head(title: str, lines: Iterable[str]) -> str:
    below = ''.join(f'<p>{escape(line)}</p>' for line in lines)
    return f'<header class="head"><h1>{escape(title)}</h1>{below}</header>'


# ---- pictures


def data_url(image: np.ndarray) -> str:
    """A picture, uint8 [H, W, 3] BGR, within the page."""
    _, encoded = cv2.imencode('.png', image)
    return f'data:image/png;base64,{base64.b64encode(encoded).decode()}'


def photo(
    image: np.ndarray,
    title: str,
    landmarks: Sequence[np.ndarray] = (),
    boxes: Sequence[np.ndarray] = (),
    names: Sequence[str] = (),
) -> str:
    """A picture with what was found in it.

    Args:
        image: uint8 [H, W, 3], BGR.
        title: In words, for those who do not see it.
        landmarks: Of each face, [5, 2] of x and y in pixels.
        boxes: Of each face, x, y, width and height in pixels.
        names: Of each box.
    """
    height, width = image.shape[:2]
    shrunk = min(1.0, LARGEST_PICTURE / max(height, width))
    if shrunk < 1:
        size = max(round(width * shrunk), 1), max(round(height * shrunk), 1)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    longest = max(width, height)
    enlarged = max(1.0, SMALLEST_PICTURE / longest)
    drawn = [
        f'<svg viewBox="0 0 {width} {height}" width="{width * enlarged:.0f}" '
        f'height="{height * enlarged:.0f}" '
        f'role="img" aria-label="{escape(title)}">'
        f'<image href="{data_url(image)}" width="{width}" height="{height}"/>'
    ]
    drawn += [_box(box) for box in boxes]
    drawn += [_points(points) for points in landmarks]
    size = longest / (18 if enlarged > 1 else 26)
    for box, name in zip(boxes, names, strict=False):
        drawn.append(_name(name, box, size, width))
    return ''.join(drawn) + '</svg>'


def _box(box: np.ndarray) -> str:
    x, y, width, height = (float(value) for value in box)
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    # White on black is seen on any picture.
    return ''.join(
        f'<rect {place} fill="none" stroke="{stroke}" stroke-width="{line}" '
        'vector-effect="non-scaling-stroke"/>'
        for stroke, line in (('#000', 4), ('#fff', 2))
    )


def _points(points: np.ndarray) -> str:
    radius = max(float(np.ptp(points, axis=0).max()) / 18, 0.8)
    return ''.join(
        f'<circle class="landmark" cx="{x:.2f}" cy="{y:.2f}" r="{radius:.2f}" '
        'fill="#ffd400" stroke="#000" stroke-width="1.5" '
        'vector-effect="non-scaling-stroke"/>'
        for x, y in points
    )


def _name(name: str, box: np.ndarray, size: float, width: int) -> str:
    """A name above a box, or within it at the upper edge of the picture."""
    x, y, box_width = (float(value) for value in box[:3])
    letter = 0.6 * size
    most = max(int(1.4 * box_width / letter), 3)
    short = name if len(name) <= most else f'{name[: most - 1]}…'
    half = letter * len(short) / 2
    x = min(max(x + box_width / 2, half), max(width - half, half))
    y = y - 0.35 * size if y > 1.4 * size else y + 1.1 * size
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}" text-anchor="middle" '
        'font-weight="600" fill="#fff" stroke="#000" stroke-width="4" '
        'paint-order="stroke" vector-effect="non-scaling-stroke">'
        f'{escape(short)}</text>'
    )


def crop(image: np.ndarray, title: str) -> str:
    """An aligned crop, uint8 [H, W, 3], BGR."""
    return f'<img class="crop" src="{data_url(image)}" alt="{escape(title)}">'


def remarks(texts: Sequence[str]) -> str:
    if not texts:
        return ''
    lines = ''.join(f'<li>{escape(text)}</li>' for text in texts)
    return f'<ul class="remarks">{lines}</ul>'


def face(title: str, views: Sequence[tuple[str, str]], texts: Sequence[str]) -> str:
    """A face of a comparison.

    Args:
        views: Pictures of it, as HTML, and what they are.
        texts: Remarks.
    """
    figures = ''.join(
        f'<figure>{view}<figcaption>{escape(caption)}</figcaption></figure>'
        for view, caption in views
    )
    return (
        f'<article class="face"><h3>{escape(title)}</h3>'
        f'<div class="views">{figures}</div>{remarks(texts)}</article>'
    )


# ---- a comparison


def verdict(score: float, threshold: float | None, same: bool | None, why: str) -> str:
    kind = 'open' if same is None else 'same' if same else 'different'
    return (
        f'<section class="verdict {kind}" role="status">'
        f'<div><data class="number" value="{score!r}">{_minus(score)}</data>'
        '<span class="unit">cosine similarity</span></div>'
        f'<div><div class="answer"><span class="sign" aria-hidden="true">{SIGNS[kind]}'
        f'</span>{ANSWERS[kind]}</div><p class="why">{escape(why)}</p></div>'
        f'{_scale(score, threshold)}</section>'
    )


def _scale(score: float, threshold: float | None) -> str:
    """Where the score lies between -1 and 1."""
    tick = ''
    if threshold is not None and -1 <= threshold <= 1:
        tick = (
            f'<div class="tick" style="left:{_place(threshold)}">'
            f'<span>threshold {threshold:.3f}</span></div>'
        )
    ends = ''.join(
        f'<span style="left:{_place(x)}">{text}</span>'
        for x, text in ((-1, '\u22121'), (0, '0'), (1, '1'))
    )
    return (
        f'<div class="scale" aria-hidden="true"><div class="track">{tick}'
        f'<div class="dot" style="left:{_place(score)}"></div></div>'
        f'<div class="ends">{ends}</div></div>'
    )


def _minus(score: float) -> str:
    """A score in three digits, with the sign that is as wide as they are."""
    return f'{score:.3f}'.replace('-', '\u2212')


def _place(value: float) -> str:
    return f'{50 * (1 + min(max(value, -1.0), 1.0)):.2f}%'


def faces(articles: Iterable[str]) -> str:
    return f'<div class="faces">{"".join(articles)}</div>'


# ---- people


def match(
    aligned: str,
    title: str,
    kind: str,
    nearest: Sequence[tuple[str, float]],
    texts: Sequence[str],
) -> str:
    """Who a face is.

    Args:
        kind: Whether the first of `nearest` is the ``same`` person, or a ``different``
            one, so that the face is unknown, or that is ``open``.
        nearest: People and their scores, the best first.
    """
    who = 'Unknown' if kind == 'different' else nearest[0][0]
    lines = ''.join(
        f'<li><span>{escape(name)}</span>'
        f'<data value="{score!r}">{_minus(score)}</data></li>'
        for name, score in nearest
    )
    return (
        f'<article class="face {kind}"><h3>{escape(title)}</h3><div class="matches">'
        f'{aligned}<div class="list"><p class="who"><span class="name">{escape(who)}'
        f'</span> <span class="tag"><span aria-hidden="true">{SIGNS[kind]}</span> '
        f'{TAGS[kind]}</span></p><p class="note">Nearest people</p><ol>{lines}</ol>'
        f'</div></div>{remarks(texts)}</article>'
    )


def identified(whole: str, matches: Iterable[str], why: str) -> str:
    """A picture and who is in it."""
    return (
        f'<section role="status"><div class="face whole">{whole}'
        f'<p class="note">{escape(why)}</p></div>{faces(matches)}</section>'
    )


def people(counts: Sequence[tuple[str, int]], others: int = 0) -> str:
    """Who is enrolled, with how many pictures, and how many are not listed."""
    if not counts:
        return hint('Nobody is enrolled yet.')
    lines = ''.join(
        f'<li><span>{escape(name)}</span><span class="count">{count} '
        f'picture{"s" * (count != 1)}</span></li>'
        for name, count in counts
    )
    more = f'<p class="note">and {others:,} others</p>' if others > 0 else ''
    return f'<div class="panel"><ul class="people">{lines}</ul>{more}</div>'


# ---- the model


def model(source: str, convention: Convention) -> str:
    facts = [('File', source), *_facts(convention)]
    listed = ''.join(
        f'<dt>{escape(name)}</dt><dd>{escape(text)}</dd>' for name, text in facts
    )
    return (
        f'<div class="model"><div class="panel"><h3>Network</h3><dl>{listed}</dl></div>'
        f'<div class="panel"><h3>Thresholds of its last examination</h3>'
        f'{_points_table(convention.operating_points)}</div></div>'
    )


def _facts(convention: Convention) -> list[tuple[str, str]]:
    height, width = convention.input_size
    order = ', '.join(convention.channel_order)
    fusion = {
        'sum': 'the embeddings of a picture and its mirror image are added',
        'concat': 'the embeddings of a picture and its mirror image are joined',
        'none': 'a picture alone, without its mirror image',
    }
    return [
        ('Pictures', f'{height} x {width} pixels (height x width), {order}'),
        (
            'Pixels',
            f'(pixel - mean) / deviation; mean {_numbers(convention.mean)}, '
            f'deviation {_numbers(convention.std)}',
        ),
        ('Embedding', f'{convention.embedding_size} numbers'),
        ('Mirror image', fusion[convention.flip_fusion]),
        ('Loss', _config(convention.loss)),
        ('Trained on', _config(convention.data)),
        ('Versions', _config(convention.versions)),
        ('Fingerprint', convention.fingerprint),
    ]


def _numbers(values: Sequence[float]) -> str:
    same = len(set(values)) == 1
    return ', '.join(f'{value:g}' for value in (values[:1] if same else values))


def _config(config: dict | None) -> str:
    if not config:
        return 'not recorded'
    options = {key: value for key, value in config.items() if key != 'type'}
    listed = ', '.join(f'{key} {value}' for key, value in options.items())
    name = config.get('type')
    return f'{name}: {listed}' if name and listed else name or listed


def _points_table(points: Sequence[OperatingPoint]) -> str:
    if not points:
        return (
            '<p class="note">None are recorded. Examine the checkpoint with '
            'tools/test.py --save-thresholds, or choose one yourself.</p>'
        )
    rows = ''.join(
        f'<tr><td>{escape(point.test_set)}</td><td>{point.far:g}</td>'
        f'<td>{point.threshold:.4f}</td><td>{100 * point.tar:.2f} %</td>'
        f'<td>{point.impostors:,}</td></tr>'
        for point in points
    )
    titles = ('Test set', 'FAR', 'Threshold', 'TAR', 'Impostors')
    header = ''.join(f'<th scope="col">{title}</th>' for title in titles)
    return (
        f'<div class="wide"><table><thead><tr>{header}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div><p class="note">The FAR is the share '
        'of pairs of different people (impostors) that reach the threshold, the TAR '
        'that of pairs of one person.</p>'
    )
