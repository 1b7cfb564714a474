import cv2
import numpy as np
import pytest
from PIL import Image

from mmhyperface.datasets.transforms import template
from mmhyperface.inference import Face, Verification
from mmhyperface.inference.annotation import (
    Label,
    draw_faces,
    draw_pictures,
    draw_verification,
    save_picture,
)
from mmhyperface.inference.detection import turned
from mmhyperface.inference.pictures import Picture
from mmhyperface.utils.errors import UserError

KNOWN, UNKNOWN, PLAIN = (0, 158, 115), (213, 94, 0), (0, 114, 178)
POINTS = template(112, 112) * 2 + 200
BOX = np.array([220.0, 230, 160, 200])


def face(**options):
    return Face('x', landmarks=POINTS, box=BOX, **options)


def pixels(image, color):
    """Places (y, x) of a colour."""
    return np.argwhere((np.asarray(image) == color).all(-1))


def box_of(image, color):
    places = pixels(image, color)
    (top, left), (bottom, right) = places.min(0), places.max(0)
    return left, top, right, bottom


@pytest.mark.parametrize('value', [0, 120, 255])
def test_boxes_and_labels_on_any_ground(value):
    picture = Picture(np.full((600, 800, 3), value, np.uint8))
    image = draw_faces(picture, [(face(), Label('Anna $x_1$ Ω', True))])
    assert image.size == (800, 600)
    left, top, right, bottom = box_of(image, KNOWN)
    assert abs(left - 220) < 3
    assert abs(right - 380) < 60  # a name may be wider than the box
    assert abs(bottom - 430) < 3
    assert 200 < top < 220  # the name is above the box
    text = np.asarray(image)[top : top + 14, left:right]
    assert (text == 255).all(-1).sum() > 20
    for color, label in ((UNKNOWN, Label('unknown', False)), (PLAIN, Label(''))):
        assert len(pixels(draw_faces(picture, [(face(), label)]), color)) > 500


def test_landmarks_are_where_they_are():
    picture = Picture(np.zeros((600, 800, 3), np.uint8))
    image = np.asarray(draw_faces(picture, [(face(), Label(''))]))
    for x, y in np.round(POINTS).astype(int):
        assert (image[y, x] == 255).all()


@pytest.mark.parametrize('turns', [1, 2, 3])
def test_a_turned_picture_is_drawn_upright(turns):
    upright = np.zeros((600, 800, 3), np.uint8)
    wanted = draw_faces(Picture(upright), [(face(), Label('A', True))])
    stored = np.rot90(upright, -turns)
    corners = turned(np.stack([BOX[:2], BOX[:2] + BOX[2:]]), turns, upright.shape[:2])
    box = np.concatenate([corners.min(0), np.ptp(corners, axis=0)])
    points = turned(POINTS, turns, upright.shape[:2])
    moved = Face('x', landmarks=points, box=box)
    drawn = draw_faces(Picture(stored, turns), [(moved, Label('A', True))])
    away = np.subtract(box_of(drawn, KNOWN), box_of(wanted, KNOWN))
    assert np.abs(away).max() <= 1


def test_labels_stay_within_the_picture():
    picture = Picture(np.zeros((500, 500, 3), np.uint8))
    long = 'a very long name of somebody ' * 5
    for box in ([300, 2, 250, 480], [-20, -20, 600, 600], [450, 450, 40, 40]):
        one = Face('x', landmarks=POINTS, box=np.array(box, float))
        image = draw_faces(picture, [(one, Label(long, True))])
        assert image.size == (500, 500)
        # A line of text on its ground, as wide as the picture.
        assert len(pixels(image, KNOWN)) > 4000
    nobody = Label('\ud800 ' + 'x' * 9, True)  # of a file name that is not UTF-8
    draw_faces(picture, [(face(), nobody)])


def test_small_pictures_are_enlarged_and_large_ones_reduced():
    small = Picture(np.zeros((112, 92, 3), np.uint8))
    assert draw_faces(small, []).size == (394, 480)
    large = Picture(np.zeros((1000, 3200, 3), np.uint8))
    assert draw_faces(large, []).size == (1600, 500)
    tiny = draw_faces(Picture(np.zeros((1, 1, 3), np.uint8)), [])
    assert tiny.size == (480, 480)


def test_a_crop_has_its_label_below():
    picture = Picture(np.zeros((480, 480, 3), np.uint8))
    image = draw_faces(picture, [(Face('x'), Label('Anna', True))])
    assert image.width == 480
    assert image.height > 480
    assert (np.asarray(image)[:480] == 0).all()
    assert len(pixels(image, KNOWN)) > 9


@pytest.mark.parametrize(
    ('same', 'color'), [(True, KNOWN), (False, UNKNOWN), (None, (0, 0, 0))]
)
def test_two_faces_side_by_side(same, color):
    red, blue = (np.full((112, 96, 3), c, np.uint8) for c in ((0, 0, 255), (255, 0, 0)))
    faces = Face('a.png', crop=red), Face('b.png', crop=blue)
    known = same is not None
    result = Verification(
        0.5, 0.4 if known else None, same, 1e-3 if known else None, 'lfw', faces
    )
    image = draw_verification(result)
    left, right = box_of(image, (255, 0, 0)), box_of(image, (0, 0, 255))
    for x0, y0, x1, y1 in (left, right):
        assert (x1 - x0 + 1, y1 - y0 + 1) == (219, 256)
    assert left[2] < right[0]
    assert len(pixels(image, color)) > 50
    with pytest.raises(UserError, match='its crop was not kept'):
        draw_verification(Verification(1, None, None, None, None, (face(), face())))


def test_pictures_of_a_folder(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((20, 20), np.uint8))
    sources = [str(tmp_path / 'a.png'), str(tmp_path / 'gone.png'), 'array 1']
    faces = [(Face(source), Label('Anna')) for source in sources]
    arrays = {'array 1': np.zeros((30, 30), np.uint8)}
    paths = draw_pictures(faces, tmp_path / 'out', arrays)
    assert paths == [
        str(tmp_path / 'out' / name) for name in ('00001_a.png', '00003_array 1.png')
    ]
    for path in paths:
        Image.open(path).load()


def test_where_no_picture_can_be(tmp_path):
    image = Image.new('RGB', (9, 9))
    save_picture(image, tmp_path / 'x.JPG')
    assert Image.open(tmp_path / 'x.JPG').format == 'JPEG'
    with pytest.raises(UserError, match=r'x.txt: a picture is one of .png, .jpg'):
        save_picture(image, tmp_path / 'x.txt')
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='is no folder'):
        draw_pictures([], tmp_path / 'file')
