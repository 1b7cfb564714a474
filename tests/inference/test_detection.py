from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from drawn_faces import LAYOUT, draw_face, write_model

from mmhyperface.inference import DetectedFace, YuNet
from mmhyperface.inference.detection import choose_face, turned
from mmhyperface.utils.errors import UserError

get_level = getattr(cv2, 'getLogLevel', None) or cv2.utils.logging.getLogLevel


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp('model') / 'blocks.onnx')


def picture():
    """Two faces, and the landmarks and box of each."""
    image = np.zeros((240, 320, 3), np.uint8)
    low = draw_face(image, (4, 6), score=0.8)
    high = draw_face(image, (20, 3), score=0.95, red=200)
    # Centre of the block and the side that `red` is the logarithm of, as it is stored.
    side = 8 * np.exp([1, 2])
    centres = np.array([[4.5, 6.5], [20.5, 3.5]]) * 8
    boxes = np.concatenate([centres - side[:, None] / 2, np.stack([side, side], 1)], 1)
    return image, (high, low), boxes[::-1]


def test_all_faces_the_best_first(model):
    image, points, boxes = picture()
    actual = YuNet(model).detect(image)
    for face, wanted, box in zip(actual, points, boxes, strict=True):
        assert np.abs(face.landmarks - wanted).max() < 0.01
        assert np.abs(face.box - box).max() < 0.5
    assert actual[0].score > actual[1].score
    assert YuNet(model).detect(np.zeros_like(image)) == []
    assert len(YuNet(model, score_threshold=0.9).detect(image)) == 1


def test_opencv_does_not_speak_of_its_engine(model, capfd):
    """Version 5 warns of each network, as if it could not be read."""
    level = get_level()
    YuNet(model)
    assert capfd.readouterr().err == ''
    assert get_level() == level


@pytest.mark.parametrize('turns', [1, 2, 3])
def test_places_are_those_of_the_picture_as_it_is_stored(model, turns):
    image, points, boxes = picture()
    stored = np.ascontiguousarray(np.rot90(image, -turns))
    actual = YuNet(model).detect(stored, turns)
    for face, wanted, box in zip(actual, points, boxes, strict=True):
        back = turned(face.landmarks, -turns, stored.shape[:2])
        assert np.abs(back - wanted).max() < 0.01
        corners = np.stack([face.box[:2], face.box[:2] + face.box[2:]])
        corners = turned(corners, -turns, stored.shape[:2])
        assert np.abs(corners.min(0) - box[:2]).max() < 0.5
        assert np.abs(np.ptp(corners, axis=0) - box[2:]).max() < 0.5


@pytest.mark.parametrize('quarters', range(-4, 5))
def test_turned_points_stay_on_their_pixels(quarters):
    image = np.zeros((5, 9), int)
    places = [(6, 1), (0, 4), (8, 0)]
    for value, (x, y) in enumerate(places, start=1):
        image[y, x] = value
    moved = turned(np.array(places, float), quarters, image.shape)
    x, y = moved.astype(int).T
    assert np.rot90(image, -quarters)[y, x].tolist() == [1, 2, 3]


def test_large_pictures_are_reduced(model):
    image = np.zeros((960, 1280, 3), np.uint8)
    points = draw_face(image, (4, 6), scale=4)
    (face,) = YuNet(model, longest=320).detect(image)
    assert np.abs(face.landmarks - points).max() < 0.05


def test_several_threads_ask_at_once(model):
    detector = YuNet(model)
    image, points, _ = picture()
    images = [image, np.pad(image, ((0, 80), (0, 160), (0, 0)))] * 20
    with ThreadPoolExecutor(4) as pool:
        for faces in pool.map(detector.detect, images):
            for face, wanted in zip(faces, points, strict=True):
                assert np.abs(face.landmarks - wanted).max() < 0.01


def test_a_choice_of_faces():
    def face(x, y, side, score):
        return DetectedFace(np.array([x, y, side, side]), LAYOUT, score)

    faces = [face(0, 0, 30, 0.7), face(45, 45, 10, 0.6), face(80, 0, 20, 0.9)]
    chosen = [choose_face(faces, x, (100, 100)) for x in ('largest', 'central', 'best')]
    assert chosen == [0, 1, 2]


def test_what_is_no_detector(model, tmp_path):
    for options in (dict(longest=0), dict(score_threshold=0), dict(score_threshold=2)):
        with pytest.raises(UserError, match='between 0 and 1'):
            YuNet(model, **options)
    with pytest.raises(UserError, match=r"there is no model '.*none.onnx'"):
        YuNet(tmp_path / 'none.onnx')
    (tmp_path / 'x.onnx').write_bytes(b'version https://git-lfs.github.com')
    with pytest.raises(UserError, match=r"x.onnx' is no model that FaceDetectorYN"):
        YuNet(tmp_path / 'x.onnx')
