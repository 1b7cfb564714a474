"""A tiny network of chance, on pictures whose crops are known."""

import dataclasses
import itertools
import re

import cv2
import numpy as np
import pytest
from drawn_faces import draw_face, write_model
from mmengine.infer import BaseInferencer
from PIL import Image
from tiny_network import SIZE, build, by_hand

from mmhyperface.apis import FaceInferencer
from mmhyperface.datasets.transforms import AlignFace, template
from mmhyperface.gallery import FaceGallery
from mmhyperface.inference import (
    EmbeddingNetwork,
    Face,
    FaceEmbeddings,
    TorchNetwork,
    open_network,
)
from mmhyperface.registry import INFERENCERS
from mmhyperface.utils.errors import UserError
from mmhyperface.weights.convention import OperatingPoint


@pytest.fixture(scope='module')
def model():
    return build()


@pytest.fixture(scope='module')
def inferencer(model):
    return FaceInferencer(model)


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp('model') / 'blocks.onnx')


def crop(seed, size=SIZE):
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    return cv2.GaussianBlur(noise, (7, 7), 2)


def save(folder, name, image):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    return str(path)


def test_embeddings_are_the_networks_own_and_in_order(inferencer, model, tmp_path):
    images = [crop(i) for i in range(5)]
    paths = [save(tmp_path, f'{i}.png', image) for i, image in enumerate(images)]
    wanted = by_hand(model, images)
    for inputs, sources in (
        (tmp_path, paths),
        (images, [f'array {i}' for i in range(1, 6)]),
    ):
        for batch_size in (1, 2, 32):
            actual = inferencer.embed(inputs, batch_size)
            np.testing.assert_allclose(actual.embeddings, wanted, rtol=1e-4, atol=1e-5)
            assert actual.sources == sources
            assert actual.embeddings.dtype == np.float32
            assert actual.problems == []
    assert actual.numbers.tolist() == [0] * 5
    norms = np.linalg.norm(wanted.astype(np.float64), axis=1)
    assert [face.quality for face in actual] == pytest.approx(norms.tolist(), rel=1e-4)
    assert all(face.crop is None for face in actual)
    kept = inferencer.embed(images, keep_crops=True)
    for face, image in zip(kept, images, strict=True):
        np.testing.assert_array_equal(face.crop, image)


def test_what_is_wrong_with_a_picture_is_told_and_stops_no_other(inferencer, tmp_path):
    good = save(tmp_path, 'good.png', crop(0))
    text = tmp_path / 'text.png'
    text.write_text('hello')
    (tmp_path / 'empty.jpg').write_bytes(b'')
    large = tmp_path / 'large.png'
    Image.new('1', (8000, 7000)).save(large)
    problems = {
        text: 'is no picture of a known type, or damaged (5 bytes',
        tmp_path / 'empty.jpg': 'the file is empty',
        tmp_path / 'none.png': 'there is no such file',
        save(tmp_path, 'dot.png', np.zeros((1, 1, 3), np.uint8)): 'is 1x1',
        large: 'has 56.0 megapixels (7000x8000), more than 50',
        save(tmp_path, 'wide.png', crop(1, 48)): 'is 48x48 (height x width), but the',
        save(tmp_path, 'black.png', np.zeros((SIZE, SIZE), np.uint8)): 'no face: all',
        save(tmp_path, 'last.png', crop(2)) + '/x.png': 'cannot be read',
    }
    inputs = [good, *problems, good]
    actual = inferencer.embed(inputs, batch_size=2)
    assert [face.source for face in actual] == [str(path) for path in inputs]
    assert actual.sources == [good, good]
    for face, (path, start) in zip(actual.problems, problems.items(), strict=True):
        assert face.problem.startswith(start), path
        assert face.embedding is None
        assert face.quality is None
    assert actual.embeddings.shape == (2, 8)
    strict = FaceInferencer(inferencer.network, on_error='raise')
    with pytest.raises(UserError, match=r'text\.png: is no picture'):
        strict.embed(inputs)


def test_only_what_the_training_was_given_is_a_crop(model):
    network = TorchNetwork(model)
    network.convention = dataclasses.replace(
        model.convention, resize=True, image_sizes=((40, 36),)
    )
    photograph, seen = np.tile(crop(0, 24), (4, 4, 1)), crop(0, 40)[:, :36]
    inferencer = FaceInferencer(network)
    faces = inferencer.embed([photograph, seen, crop(0)]).faces
    assert faces[0].problem.startswith(
        'is 96x96 (height x width), but the network takes aligned crops of 32x32 or '
        '40x36. For photographs give a detector (detector=..., --detector) or landmarks'
    )
    assert 'resize=True (--resize)' in faces[0].problem
    small = cv2.resize(seen, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(
        faces[1].embedding, by_hand(model, [small])[0], rtol=1e-4, atol=1e-5
    )
    assert [face.alignment for face in faces] == ['', 'crop', 'crop']
    with pytest.raises(UserError, match='is 96x96'):
        inferencer.verify(crop(0), photograph)
    asked = FaceInferencer(network, resize=True)
    first, second, tiny = asked.embed([photograph, seen, crop(0, 15)])
    assert [face.alignment for face in (first, second)] == ['resized', 'crop']
    assert first.remarks[0].startswith('resized from 96x96 to 32x32')
    small = cv2.resize(photograph, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(
        first.embedding, by_hand(model, [small])[0], rtol=1e-4, atol=1e-5
    )
    assert 'at least 16 pixels a side' in tiny.problem
    (strict,) = FaceInferencer(network, resize=False).embed(seen)
    assert 'is 40x36' in strict.problem


def test_a_gallery_knows_how_its_faces_were_found(model, detector, tmp_path):
    plain, detecting = FaceInferencer(model), FaceInferencer(model, detector=detector)
    image, points = two_faces()
    gallery = FaceGallery.of(plain.convention)
    detecting.enrol(gallery, 'Anna', image)
    gallery.save(tmp_path / 'g.npz')
    gallery = FaceGallery.load(tmp_path / 'g.npz')
    assert gallery.alignments == {'detector'}
    actual, _ = detecting.identify(image, gallery)
    assert not any('gallery' in remark for remark in actual.face.remarks)
    (given,) = plain.identify(image, gallery, landmarks=points[1])
    assert given.face.remarks == ()
    (other,) = plain.identify(crop(1), gallery)
    (remark,) = other.face.remarks
    assert remark.startswith(
        'taken for aligned crops, but the faces of the gallery were found by a detector'
    )
    assert '--detector (FaceInferencer(detector=...))' in remark


def test_what_is_printed_of_results_is_short(inferencer):
    gallery = FaceGallery.of(inferencer.convention)
    inferencer.enrol(gallery, 'Anna', crop(0))
    actual = inferencer.embed([crop(0), None], keep_crops=True)
    identified = inferencer.identify([crop(0)], gallery)
    for result in (
        actual,
        actual.faces,
        inferencer.verify(crop(0), crop(1)),
        identified,
    ):
        assert len(repr(result)) < 300
    assert repr(actual.faces[0]).startswith("Face('array 1', 0: 8 values, norm ")
    assert "Face('array 2', 0: expected a path" in repr(actual.faces[1])
    assert repr(actual) == 'FaceEmbeddings(1 of 8 values, 1 problems)'


def test_embeddings_of_another_network_are_refused(inferencer, model):
    face = inferencer.single(crop(0))
    other = dataclasses.replace(face, fingerprint='of another network')
    with pytest.raises(UserError, match='are of different networks'):
        inferencer.compare(face, other)
    gallery = FaceGallery.of(inferencer.convention)
    foreign = FaceGallery('of another network', 8)
    for use in (
        lambda: inferencer.identify(FaceEmbeddings([other], 8), gallery, threshold=0.5),
        lambda: inferencer.identify(crop(0), foreign),
        lambda: inferencer.enrol(foreign, 'Anna', crop(1)),
    ):
        with pytest.raises(UserError, match='made with another model than'):
            use()


def test_landmarks_bring_a_face_to_its_place(inferencer, model):
    image = crop(0, 200)
    points = template(112, 112) * 0.9 + 30
    wanted = AlignFace(SIZE).transform(dict(img=image, landmarks=points))['img']
    (face,) = inferencer.embed(image, landmarks=points, keep_crops=True)
    np.testing.assert_array_equal(face.crop, wanted)
    np.testing.assert_array_equal(face.landmarks, points)
    faces = inferencer.embed([image, image], landmarks=[points, None]).faces
    assert faces[0].problem == ''
    assert faces[1].problem == 'no landmarks are given for it'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda p: p[[1, 0, 2, 4, 3]], 'mirrored face, or in another order'),
        (lambda p: p[[2, 0, 1, 4, 3]], 'mirrored face, or in another order'),
        (lambda p: p + 500, 'outside of the picture, which is 200x200'),
        (lambda p: p * np.nan, 'no face has the landmarks'),
        (lambda p: p * 0 + 9, 'no face has the landmarks'),
        (lambda p: p / 12, 'the face has only 9 pixels a side, fewer than 16'),
    ],
)
def test_landmarks_of_no_face(inferencer, change, message):
    points = change(template(112, 112))
    (face,) = inferencer.embed(crop(0, 200), landmarks=points)
    assert message in face.problem
    assert face.embedding is None


def two_faces():
    image = np.zeros((240, 320, 3), np.uint8)
    low = draw_face(image, (4, 6), score=0.8, red=200)
    high = draw_face(image, (20, 3), score=0.95, red=100)
    return image, (high, low)


def test_faces_that_are_found(model, detector):
    inferencer = FaceInferencer(model, detector=detector)
    image, points = two_faces()
    black = np.zeros_like(image)
    actual = inferencer.embed([image, black, image], keep_crops=True)
    assert [(face.source, face.number) for face in actual] == [
        *(('array 1', 0), ('array 1', 1), ('array 2', 0)),
        *(('array 3', 0), ('array 3', 1)),
    ]
    for face, place in zip(actual.faces[:2], points, strict=True):
        assert np.abs(face.landmarks - place).max() < 0.01
        aligned = dict(img=image, landmarks=face.landmarks)
        wanted = AlignFace(SIZE).transform(aligned)['img']
        np.testing.assert_array_equal(face.crop, wanted)
        assert face.box.shape == (4,)
    assert actual.faces[2].problem == 'no face: YuNet found none'
    (largest,) = inferencer.embed(image, choose='largest')
    assert np.abs(largest.landmarks - points[1]).max() < 0.01
    assert largest.remarks == ('of 2 faces the largest is taken',)
    (best,) = FaceInferencer(model, detector=detector, choose='best').embed(image)
    assert np.abs(best.landmarks - points[0]).max() < 0.01


def test_a_face_of_a_turned_picture_has_the_same_crop(model, detector, tmp_path):
    inferencer = FaceInferencer(model, detector=detector, choose='best')
    image, _ = two_faces()
    exif = Image.Exif()
    exif[0x112] = 6
    stored = np.ascontiguousarray(np.rot90(image, -3)[..., ::-1])
    Image.fromarray(stored).save(tmp_path / 'a.png', exif=exif)
    faces = inferencer.embed([image, tmp_path / 'a.png'], keep_crops=True).faces
    away = np.abs(faces[0].crop.astype(int) - faces[1].crop)
    assert away.mean() < 1
    # Landmarks of the stored pixels, which give the same again.
    plain = FaceInferencer(model)
    (again,) = plain.embed(tmp_path / 'a.png', landmarks=faces[1].landmarks)
    np.testing.assert_allclose(again.embedding, faces[1].embedding, atol=1e-5)
    # A crop is taken as training would, and that is told.
    Image.fromarray(crop(1)[..., ::-1]).save(tmp_path / 'crop.png', exif=exif)
    turned, stored = plain.embed([tmp_path / 'crop.png', crop(1)])
    np.testing.assert_array_equal(turned.embedding, stored.embedding)
    assert turned.remarks == ('EXIF tells to turn it; taken as it is stored',)
    assert stored.remarks == ()


def test_a_stream_reads_no_further_than_it_must(inferencer):
    read = []

    def pictures():
        for number in itertools.count():
            read.append(number)
            yield crop(number)

    faces = inferencer.stream(pictures(), batch_size=3)
    first = list(itertools.islice(faces, 4))
    assert [face.source for face in first] == [f'array {i}' for i in range(1, 5)]
    assert len(read) == 6


def test_in_mmengines_style(inferencer, tmp_path):
    assert isinstance(inferencer, BaseInferencer)
    assert INFERENCERS.get('FaceInferencer') is FaceInferencer
    save(tmp_path / 'in', 'a.png', crop(0))
    (tmp_path / 'in' / 'b.png').write_bytes(b'')
    result = inferencer(tmp_path / 'in', out_dir=tmp_path / 'out', show_progress=True)
    good, bad = result['predictions']
    assert len(good['embedding']) == 8
    assert (bad['embedding'], bad['problem']) == (None, 'the file is empty')
    assert result['visualization'] == [str(tmp_path / 'out' / '00001_a.png')]
    assert cv2.imread(result['visualization'][0]) is not None
    result = inferencer(crop(0), return_datasamples=True, out_dir=tmp_path / 'array')
    (sample,) = result['predictions']
    assert sample.embedding.tolist() == good['embedding']
    assert sample.source == 'array 1'
    assert len(result['visualization']) == 1


def points_of(model, *points):
    network = open_network(model)
    object.__setattr__(network.convention, 'operating_points', points)
    return network


@pytest.fixture
def examined():
    """With thresholds of its own."""
    return FaceInferencer(
        points_of(
            build(),
            OperatingPoint('lfw', 1e-2, -0.9, 0.9, 30_000),
            OperatingPoint('lfw', 1e-3, 0.9999, 0.8, 30_000),
        )
    )


def test_two_pictures_are_compared(inferencer, examined, model):
    one, other = crop(0), crop(1)
    a, b = by_hand(model, [one, other])
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    result = inferencer.verify(one, other)
    assert result.score == pytest.approx(cosine, abs=1e-6)
    assert (result.threshold, result.same, result.far) == (None, None, None)
    assert result.decision == 'no threshold is known'
    assert [face.source for face in result.faces] == ['array 1', 'array 2']
    assert inferencer.verify(one, other, threshold=result.score).same is True
    above = np.nextafter(result.score, 2)
    assert inferencer.verify(one, other, threshold=above).same is False
    result = examined.verify(one, other)
    assert (result.far, result.same, result.test_set) == (1e-3, False, 'lfw')
    assert result.decision == 'different people'
    assert examined.verify(one, other, far=1e-2).same is True
    assert examined.verify(one, one).same is True
    (face,) = inferencer.embed(other)
    assert inferencer.verify(one, face).score == pytest.approx(cosine, abs=1e-6)


def test_what_cannot_be_compared(inferencer, examined, tmp_path):
    one = crop(0)
    longer = Face('b', embedding=np.ones(9, np.float32))
    nothing = Face('b', embedding=np.zeros(8, np.float32))
    for network, other, options, message in (
        (inferencer, one, dict(far=0.1), 'carries no thresholds, so none for'),
        (examined, one, dict(far=0.1), r'no threshold for .* of 0.1 on lfw'),
        (examined, one, dict(threshold=0.3, far=0.01), 'not both'),
        (examined, one, dict(threshold=2), 'a threshold is a cosine'),
        (examined, one, dict(threshold=float('nan')), 'a threshold is a cosine'),
        (inferencer, tmp_path / 'none.png', {}, r'none.png: there is no such file'),
        (inferencer, [one, one], {}, 'expected one picture'),
        (inferencer, None, {}, 'array 2: expected a path'),
        (inferencer, longer, {}, 'are of different networks'),
        (inferencer, nothing, {}, 'zero or not finite'),
    ):
        with pytest.raises(UserError, match=message):
            network.verify(one, other, **options)


def test_of_several_faces_the_largest_is_compared(model, detector):
    inferencer = FaceInferencer(model, detector=detector)
    image, points = two_faces()
    result = inferencer.verify(image, image)
    assert result.score == pytest.approx(1)
    for face in result.faces:
        assert face.remarks == ('of 2 faces the largest is taken',)
        assert np.abs(face.landmarks - points[1]).max() < 0.01
        assert face.crop.shape == (SIZE, SIZE, 3)
    with pytest.raises(UserError, match='YuNet found none'):
        inferencer.verify(image, np.zeros_like(image))


def test_people_are_enrolled_and_identified(inferencer, model, tmp_path):
    gallery = FaceGallery.of(inferencer.convention)
    folder = tmp_path / 'anna'
    for i in range(2):
        save(folder, f'{i}.png', crop(i))
    (folder / 'x.png').write_text('no picture')
    actual = inferencer.enrol(gallery, 'Anna', folder)
    assert len(actual.problems) == 1
    inferencer.enrol(gallery, 'Björn', crop(2), images=['björn'])
    assert gallery.images('Anna') == [str(folder / '0.png'), str(folder / '1.png')]
    rows = by_hand(model, [crop(i) for i in range(4)])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    best = {'Anna': (rows[:2] @ rows[3]).max(), 'Björn': rows[2] @ rows[3]}
    bad = np.zeros((5, 5), np.uint8)
    first, nobody, third = inferencer.identify([crop(3), bad, crop(2)], gallery)
    assert {m.person: m.score for m in first.matches} == pytest.approx(best, abs=1e-5)
    assert (nobody.person, nobody.matches) == (None, ())
    assert nobody.face.problem
    assert (third.person, third.matches[0].image) == ('Björn', 'björn')
    (stranger,) = inferencer.identify(crop(3), gallery, threshold=0.999999)
    assert (stranger.person, list(stranger.matches)) == (None, [])
    actual = inferencer.embed(crop(2))
    assert inferencer.identify(actual, gallery, top_k=1)[0].person == 'Björn'
    # Arrays go by what they hold: each call counts them from 1.
    for image in (crop(4), crop(5)):
        inferencer.enrol(gallery, 'Cem', image)
    first, second = gallery.images('Cem')
    assert re.fullmatch('array [0-9a-f]{8}', first)
    assert first != second


def test_what_cannot_be_enrolled(inferencer):
    gallery = FaceGallery.of(inferencer.convention)
    with pytest.raises(UserError, match='Anna: none of the pictures can be enrolled'):
        inferencer.enrol(gallery, 'Anna', np.zeros((5, 5), np.uint8))
    with pytest.raises(UserError, match='1 ids are given for 2 pictures'):
        inferencer.enrol(gallery, 'Anna', [crop(0), crop(1)], images=['a'])
    assert len(gallery) == 0


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(choose='first'), r"choose is 'first'; it can be \('all', 'largest',"),
        (dict(on_error='ignore'), "on_error is 'ignore'; it can be .'report', 'raise'"),
        (dict(detector='none.onnx'), 'there is no model'),
    ],
)
def test_unknown_options(model, options, message):
    with pytest.raises(UserError, match=message):
        FaceInferencer(model, **options)
    with pytest.raises(UserError, match='batch_size is at least 1'):
        FaceInferencer(model).embed(crop(0), batch_size=0)


class Means(EmbeddingNetwork):
    """Takes crops that are larger than what its network was trained on."""

    source = 'means'
    crop_size = (56, 40)

    def __init__(self, convention):
        self.convention = convention

    def _embed(self, crops):
        assert crops.shape[1:] == (56, 40, 3)
        return np.repeat(crops.mean((1, 2)), 3, axis=1)[:, :8].astype(np.float32)


def test_crops_have_the_size_that_the_network_takes(model):
    inferencer = FaceInferencer(Means(model.convention))
    image, points = crop(0, 200), template(112, 112) + 20
    wanted = AlignFace((56, 40)).transform(dict(img=image, landmarks=points))['img']
    (face,) = inferencer.embed(image, landmarks=points)
    mean = np.repeat(wanted.mean((0, 1)), 3)[:8]
    np.testing.assert_allclose(face.embedding, mean, rtol=1e-6)
    (face,) = inferencer.embed(crop(0))
    assert (
        'is 32x32 (height x width), but the network takes aligned crops of 56x40'
        in (face.problem)
    )


def test_an_embedding_that_is_none_is_a_problem(model):
    network = Means(model.convention)
    network._embed = lambda crops: np.array(
        [[np.nan] * 8, [0] * 8, [1] * 8], np.float32
    )
    image = cv2.resize(crop(0), (40, 56))
    faces = FaceInferencer(network).embed([image] * 3).faces
    assert ['the network gives no' in face.problem for face in faces] == [1, 1, 0]
