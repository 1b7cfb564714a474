"""The tools on a checkpoint of a tiny network of chance."""

import csv
import json
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from drawn_faces import draw_face, write_model
from tiny_network import SIZE, build, config

from mmhyperface.apis import FaceInferencer
from mmhyperface.gallery import FaceGallery
from mmhyperface.weights.convention import Convention, OperatingPoint, convention_of


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A checkpoint with thresholds, a detector, and pictures of three people."""
    folder = tmp_path_factory.mktemp('inference')
    model = build()
    metadata = convention_of(config()).to_dict()
    points = [OperatingPoint('lfw', 1e-2, 0.99999, 0.9, 3000)]
    metadata['operating_points'] = [vars(point) for point in points]
    content = {'meta': {'convention': metadata}, 'state_dict': model.state_dict()}
    torch.save(content, folder / 'model.pth')
    content['state_dict']['backbone.fc.bias'] += 1
    torch.save(content, folder / 'other.pth')
    metadata['operating_points'] = []
    torch.save(content, folder / 'plain.pth')
    del content['meta']
    torch.save(content, folder / 'old.pth')
    write_model(folder / 'blocks.onnx')
    for person in range(3):
        for image in range(4):
            save(folder / 'people' / f'p{person}' / f'{image}.png', crop(person, image))
    return folder


def crop(person, image):
    rng = np.random.default_rng(person)
    face = cv2.GaussianBlur(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8), (9, 9), 3)
    noise = np.random.default_rng([person, image]).normal(0, 2, face.shape)
    return np.clip(face + noise, 0, 255).astype(np.uint8)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def run(run_tool):
    return run_tool


EMBED, VERIFY, GALLERY = (f'inference/{x}.py' for x in ('embed', 'verify', 'gallery'))


def test_embeddings_in_an_npz_file(run, folder, tmp_path):
    out = tmp_path / 'new' / 'e.npz'
    bad = tmp_path / 'bad.png'
    bad.write_text('no picture')
    inputs = (folder / 'people', bad)
    status, output, err = run(EMBED, folder / 'model.pth', *inputs, '--out', out)
    assert status == 3
    assert output.startswith('12 embeddings of 8 values in ')
    assert f'left out: {bad}: is no picture' in err
    inferencer = FaceInferencer(folder / 'model.pth')
    wanted = inferencer.embed(folder / 'people')
    with np.load(out, allow_pickle=False) as file:
        actual = dict(file)
    np.testing.assert_allclose(actual['embeddings'], wanted.embeddings, rtol=1e-5)
    assert actual['paths'].tolist() == wanted.sources
    assert actual['numbers'].tolist() == [0] * 12
    norms = np.linalg.norm(wanted.embeddings, axis=1)
    np.testing.assert_allclose(actual['norms'], norms, rtol=1e-5)
    assert np.isnan(actual['boxes']).all()
    assert actual['landmarks'].shape == (12, 5, 2)
    assert actual['problem_paths'].tolist() == [str(bad)]
    convention = Convention.from_dict(json.loads(str(actual['convention'])), 'x')
    assert convention == inferencer.convention


def test_embeddings_in_a_table(run, folder, tmp_path):
    parquet = pytest.importorskip('pyarrow.parquet')
    image = np.zeros((240, 320, 3), np.uint8)
    points = draw_face(image, (4, 6))
    save(tmp_path / 'in' / 'a.png', image)
    save(tmp_path / 'in' / 'b.png', np.zeros_like(image))
    out = tmp_path / 'e.parquet'
    options = ('--detector', folder / 'blocks.onnx', '--out-dir', tmp_path / 'drawn')
    arguments = (folder / 'model.pth', tmp_path / 'in', '--out', out)
    status, _, err = run(EMBED, *arguments, *options)
    assert status == 3
    assert 'b.png: no face: YuNet found none' in err
    table = parquet.read_table(out)
    actual, nothing = table.to_pylist()
    assert len(actual['embedding']) == 8
    got = [[actual[f'x{i}'], actual[f'y{i}']] for i in range(1, 6)]
    assert np.abs(np.array(got) - points).max() < 0.01
    assert (nothing['embedding'], nothing['x1'], nothing['left']) == (None, None, None)
    assert nothing['problem'].startswith('no face')
    metadata = json.loads(table.schema.metadata[b'mmhyperface'])
    assert Convention.from_dict(metadata, 'x').embedding_size == 8
    assert len(list((tmp_path / 'drawn').glob('*.png'))) == 2

    # The table is a list of pictures with landmarks.
    (tmp_path / 'in' / 'b.png').unlink()
    rows = tmp_path / 'in' / 'l.csv'
    numbers = ','.join(str(number) for number in np.ravel(got))
    header = ','.join(f'{a}{i}' for i in range(1, 6) for a in 'xy')
    rows.write_text(f'path,{header}\na.png,{numbers}\n')
    again = tmp_path / 'again.npz'
    assert run(EMBED, folder / 'model.pth', rows, '--out', again)[0] == 0
    by_folder = (tmp_path / 'in', '--landmarks', rows, '--overwrite')
    for inputs in ((), by_folder):
        if inputs:
            arguments = (folder / 'model.pth', *inputs, '--out', again)
            assert run(EMBED, *arguments)[0] == 0
        with np.load(again) as file:
            np.testing.assert_allclose(
                file['embeddings'][0], actual['embedding'], rtol=1e-3, atol=1e-4
            )


def test_what_cannot_be_embedded(run, folder, tmp_path):
    model, people = folder / 'model.pth', folder / 'people'
    there = tmp_path / 'there.npz'
    there.write_text('mine')
    for arguments, message in (
        ((model, people, '--out', there), 'is there already; to replace it'),
        ((model, people, '--out', tmp_path / 'e.txt'), 'are written to .npz or'),
        ((folder / 'old.pth', people, '--out', 'e.npz'), 'tells no convention'),
        ((model, tmp_path / 'n', '--out', tmp_path / 'e.npz'), 'none of 1 pictures'),
    ):
        status, _, err = run(EMBED, *arguments)
        assert status == 1
        assert re.search(rf'^error: .*{re.escape(message)}', err, re.M)
        assert 'Traceback' not in err
    assert there.read_text() == 'mine'
    assert list(tmp_path.iterdir()) == [there]
    assert run(EMBED, model, people)[0] == 2


def test_two_pictures(run, folder, tmp_path):
    one, same, other = (
        folder / 'people' / x for x in ('p0/0.png', 'p0/0.png', 'p1/0.png')
    )
    out = tmp_path / 'both.png'
    status, output, _ = run(VERIFY, folder / 'model.pth', one, same, '--out', out)
    assert status == 0
    assert 'threshold 0.999990 (FAR 0.01 on lfw)\nthe same person\n' in output
    assert cv2.imread(str(out)) is not None
    status, output, _ = run(VERIFY, folder / 'model.pth', one, other)
    assert status == 3
    assert output.endswith('different people\n')
    score = float(output.split()[1])
    inferencer = FaceInferencer(folder / 'model.pth')
    assert score == pytest.approx(inferencer.verify(one, other).score, abs=1e-5)
    arguments = (folder / 'plain.pth', one, other)
    assert run(VERIFY, *arguments, '--threshold', -1)[0] == 0
    # Without a threshold nobody may take the exit status for a yes.
    status, output, err = run(VERIFY, *arguments)
    assert status == 1
    assert output.startswith('score ')
    assert 'nothing is decided' in err
    for options, message in (
        (('--far', 0.5), 'carries no thresholds'),
        (('--threshold', 7), 'a threshold is a cosine'),
        (('--out', tmp_path / 'x.txt'), 'a picture is one of'),
    ):
        status, output, err = run(VERIFY, *arguments, *options)
        assert (status, output) == (1, '')
        assert message in err
    assert run(VERIFY, *arguments, '--far', 0.1, '--threshold', 0.1)[0] == 2
    assert run(VERIFY, folder / 'model.pth', one, tmp_path / 'none.png')[0] == 1


def test_a_gallery_from_enrolment_to_removal(run, folder, tmp_path):
    model, file = folder / 'model.pth', tmp_path / 'people.npz'
    people = tmp_path / 'enrolled'
    for name in ('p0', 'p1'):
        for image in range(2):
            save(people / name / f'{image}.png', crop(int(name[1]), image))
    (people / 'p1' / 'bad.png').write_text('no picture')
    status, output, err = run(GALLERY, 'enrol', model, file, people)
    assert status == 3
    assert output.startswith('4 new, 0 changed, 0 renamed, 0 unchanged, 1 left out: ')
    assert 'bad.png: is no picture' in err
    (people / 'p1' / 'bad.png').unlink()
    save(people / 'p1' / '2.png', crop(1, 2))
    status, output, _ = run(GALLERY, 'enrol', model, file, people)
    assert status == 0
    assert output.startswith('1 new, 0 changed, 0 renamed, 4 unchanged, 0 left out: ')
    gallery = FaceGallery.load(file)
    assert gallery.people == ['p0', 'p1']
    assert gallery.images('p1') == ['p1/0.png', 'p1/1.png', 'p1/2.png']

    inputs = [folder / 'people' / f'p{i}' / '3.png' for i in range(3)]
    inferencer = FaceInferencer(model)
    actual = inferencer.identify(inputs, gallery, top_k=2, threshold=-1)
    threshold = (actual[1].matches[0].score + actual[2].matches[0].score) / 2
    options = ('--threshold', threshold, '--out-dir', tmp_path / 'drawn')
    for ending in ('csv', 'json'):
        out = tmp_path / f'r.{ending}'
        arguments = ('identify', model, file, *inputs, *options, '--out', out)
        status, output, _ = run(GALLERY, *arguments)
        assert status == 0
        assert 'unknown' in output
        # In a pipe each face has one line, however long its path.
        assert all(str(path) in output for path in inputs)
    rows = json.loads((tmp_path / 'r.json').read_text())
    assert [row['source'] for row in rows] == [str(path) for path in inputs]
    best = [row['matches'][0]['person'] if row['matches'] else None for row in rows]
    assert best == ['p0', 'p1', None]
    with open(tmp_path / 'r.csv', newline='') as table:
        lines = list(csv.DictReader(table))
    firsts = {line['path']: line for line in reversed(lines)}
    assert [firsts[str(path)]['person'] for path in inputs] == ['p0', 'p1', '']
    assert len(list((tmp_path / 'drawn').glob('*.png'))) == 3
    status, output, err = run(GALLERY, 'identify', folder / 'model.pth', file, *inputs)
    assert '(0.01' not in output
    assert 'FAR 0.01 on lfw' in output

    status, output, err = run(GALLERY, 'list', file)
    assert output == 'p0\t2\np1\t3\n'
    assert err.startswith('2 people, 5 images, 8 values, score by best')
    assert err.endswith('faces: crop\n')
    assert run(GALLERY, 'remove', file, 'p1', '--image', 'p1/0.png')[0] == 0
    assert run(GALLERY, 'list', file, '--images')[1].endswith('p1/1.png\tp1/2.png\n')
    assert run(GALLERY, 'remove', file, 'p1')[0] == 0
    assert FaceGallery.load(file).people == ['p0']
    status, _, err = run(GALLERY, 'remove', file, 'p1')
    assert status == 1
    assert "there is no 'p1' in the gallery" in err


def test_a_folder_that_changes(run, folder, tmp_path):
    model, file, people = folder / 'model.pth', tmp_path / 'g.npz', tmp_path / 'people'
    for name in ('p0/0.png', 'p0/1.png', 'p0/2.png', 'p1/0.png', 'p2/0.png'):
        save(people / name, crop(int(name[1]), int(name[3])))
    assert run(GALLERY, 'enrol', model, file, people)[0] == 0
    save(people / 'p0' / '0.png', crop(0, 9))
    (people / 'p0' / '1.png').rename(people / 'p0' / 'one.png')
    (people / 'p0' / '2.png').unlink()
    shutil.rmtree(people / 'p2')
    (people / 'p1' / '0.png').write_text('no picture any more')
    save(people / 'p1' / '1.png', crop(1, 1))
    status, output, err = run(GALLERY, 'enrol', model, file, people)
    assert status == 3
    assert output.startswith('1 new, 1 changed, 1 renamed, 0 unchanged, 1 left out: ')
    assert 'the former embedding stays of p1/0.png: mend the picture' in err
    gone = f'2 images are not in {people} and stay enrolled (--remove-gone): '
    assert f'{gone}p0/2.png, p2/0.png\n' in err
    gallery = FaceGallery.load(file)
    inferencer = FaceInferencer(model)
    kept = {
        'p0/0.png': crop(0, 9),
        'p0/2.png': crop(0, 2),
        'p0/one.png': crop(0, 1),
        'p1/0.png': crop(1, 0),
        'p1/1.png': crop(1, 1),
        'p2/0.png': crop(2, 0),
    }
    assert gallery.origins.keys() == kept.keys()
    for image, pixels in kept.items():
        (match,) = gallery.search(inferencer.embed(pixels).embeddings, 1)[0]
        assert (match.image, match.score) == (image, pytest.approx(1))

    (people / 'p1' / '0.png').unlink()
    status, output, err = run(GALLERY, 'enrol', model, file, people, '--remove-gone')
    assert status == 0
    assert output.startswith('0 new, 0 changed, 0 renamed, 3 unchanged, 0 left out: ')
    assert '3 images' in output
    assert '3 images are not in ' in err
    assert FaceGallery.load(file).people == ['p0', 'p1']


def test_a_gallery_of_an_earlier_version(run, folder, tmp_path):
    model, file, people = folder / 'model.pth', tmp_path / 'g.npz', folder / 'people'
    assert run(GALLERY, 'enrol', model, file, people)[0] == 0
    with np.load(file) as archive:
        arrays = dict(archive)
    del arrays['origins']
    np.savez(file, **arrays)
    picture = people / 'p0' / '0.png'
    status, _, err = run(GALLERY, 'identify', model, file, picture)
    assert status == 0
    assert 'does not tell how its faces were found' in err
    status, output, err = run(GALLERY, 'enrol', model, file, people)
    assert status == 0
    assert output.startswith('0 new, 12 changed')
    assert '12 images of' in err
    assert 'kept no fingerprint of their content: they are embedded anew' in err
    status, output, err = run(GALLERY, 'enrol', model, file, people)
    assert (status, err.strip()) == (0, '')
    assert output.startswith('0 new, 0 changed, 0 renamed, 12 unchanged')


def test_two_enrolments_at_once(run, folder, tmp_path, monkeypatch):
    """Another enrols while the first one embeds."""
    model, file = folder / 'model.pth', tmp_path / 'g.npz'
    for name in ('p0', 'p1'):
        save(tmp_path / name / name / '0.png', crop(int(name[1]), 0))
    embed = FaceInferencer.embed

    def embed_and_wait(self, *args, **options):
        monkeypatch.setattr(FaceInferencer, 'embed', embed)
        assert run(GALLERY, 'enrol', model, file, tmp_path / 'p1')[0] == 0
        return embed(self, *args, **options)

    monkeypatch.setattr(FaceInferencer, 'embed', embed_and_wait)
    status, output, err = run(GALLERY, 'enrol', model, file, tmp_path / 'p0')
    assert status == 0
    assert 'g.npz was changed by another process in the meantime' in err
    assert output.endswith('has 2 people with 2 images\n')
    assert FaceGallery.load(file).people == ['p1', 'p0']


def test_files_that_are_no_pictures_by_their_names(run, folder, tmp_path, caplog):
    model, people = folder / 'model.pth', tmp_path / 'people'
    good = save(people / 'p0' / '0.png', crop(0, 0))
    jpeg = cv2.imencode('.jpg', crop(0, 1))[1].tobytes()
    (people / 'p0' / '1.jfif').write_bytes(jpeg)
    (people / 'p0' / 'notes.txt').write_text('nothing')
    (people / 'p1').mkdir()
    (people / 'p1' / 'photo').write_bytes(jpeg)
    (people / 'p2').mkdir()
    file, out = tmp_path / 'g.npz', tmp_path / 'e.npz'
    for arguments in (
        (GALLERY, 'enrol', model, file, people),
        (EMBED, model, people, '--out', out),
    ):
        caplog.clear()
        status, output, err = run(*arguments)
        assert status == 3
        assert '2 ' in output
        assert '1 left out' in output
        assert 'p1/photo: is an image by its content, but its name' in err
        (passed_over,) = caplog.messages
        assert '1 files that are not pictures (p0/notes.txt)' in passed_over
    assert FaceGallery.load(file).images('p0') == ['p0/0.png', 'p0/1.jfif']
    err = run(GALLERY, 'enrol', model, file, people)[2]
    assert 'without any image in the gallery: p1, p2' in err
    (people / 'p1' / 'photo').unlink()
    assert run(EMBED, model, people, '--out', out, '--overwrite')[0] == 0
    # A person without any picture is missing as well.
    assert run(GALLERY, 'enrol', model, file, people)[0] == 3
    assert good.exists()


def test_whole_photographs_are_no_crops(run, folder, tmp_path):
    model, file = folder / 'model.pth', tmp_path / 'g.npz'
    photograph = np.zeros((96, 96, 3), np.uint8)
    draw_face(photograph, (1, 1))
    save(tmp_path / 'people' / 'p0' / '0.png', photograph)
    arguments = ('enrol', model, file, tmp_path / 'people')
    status, _, err = run(GALLERY, *arguments)
    assert status == 1
    assert 'is 96x96 (height x width), but the network takes aligned crops' in err
    assert not file.exists()
    assert run(GALLERY, *arguments, '--resize')[0] == 0
    query = ('identify', model, file, tmp_path / 'people')
    status, _, err = run(GALLERY, *query, '--detector', folder / 'blocks.onnx')
    assert status == 0
    assert (
        'found by a detector, but the faces of the gallery were taken for aligned crops'
        ' of another size (--resize)' in err
    )
    status, _, err = run(GALLERY, *query, '--resize')
    assert (status, 'but the faces' in err) == (0, False)
    # Enrolled again in another way, though the pictures are the same.
    status, output, err = run(GALLERY, *arguments, '--detector', folder / 'blocks.onnx')
    assert (status, 'but the faces' in err) == (0, False)
    assert output.startswith('0 new, 1 changed, 0 renamed, 0 unchanged')
    assert FaceGallery.load(file).alignments == {'detector'}


def test_a_threshold_by_strangers(run, folder, tmp_path):
    model, file, people = folder / 'model.pth', tmp_path / 'g.npz', folder / 'people'
    assert run(GALLERY, 'enrol', model, file, people)[0] == 0
    for image in range(10):
        save(tmp_path / 'strangers' / f'{image}.png', crop(7, image))
    arguments = ('calibrate', model, file, tmp_path / 'strangers')
    status, output, _ = run(GALLERY, *arguments, '--fpir', 0.2)
    assert status == 0
    rows = FaceInferencer(model).embed(tmp_path / 'strangers').embeddings
    wanted = FaceGallery.load(file).calibrate(rows, 0.2)
    assert '(FPIR 0.2 of 10 strangers)' in output
    assert wanted <= float(output.split()[1]) < wanted + 1e-6
    status, _, err = run(GALLERY, *arguments)
    assert status == 1
    assert '10 strangers cannot tell' in err
    assert '--fpir' in err
    save(tmp_path / 'strangers' / 'enrolled.png', crop(0, 0))
    status, _, err = run(GALLERY, *arguments, '--fpir', 0.2)
    assert status == 1
    assert 'strangers must not be in the gallery, but these pictures are: ' in err


def test_galleries_that_cannot_be_used(run, folder, tmp_path):
    model, people = folder / 'model.pth', folder / 'people'
    file = tmp_path / 'people.npz'
    assert run(GALLERY, 'enrol', model, file, people)[0] == 0
    before = file.read_bytes()
    other = folder / 'other.pth'
    (tmp_path / 'damaged.npz').write_bytes(before[: len(before) // 2])
    picture = people / 'p0' / '0.png'
    for arguments, message in (
        (('identify', other, file, picture), 'is a gallery of another model'),
        (('enrol', other, file, people), 'is a gallery of another model'),
        (('enrol', model, file, people, '--score', 'mean'), 'scores people by best'),
        (('enrol', model, file, people / 'p0'), 'lies in no subfolder'),
        (('identify', model, tmp_path / 'damaged.npz', picture), 'damaged.npz'),
        (('identify', model, file, tmp_path / 'no.png'), 'none of 1 pictures'),
        (('identify', model, file, picture, '--out', 'x.txt'), '.csv or .json'),
    ):
        status, _, err = run(GALLERY, *arguments)
        assert status == 1, message
        assert message in err
        assert 'Traceback' not in err
    assert file.read_bytes() == before
    assert run(GALLERY)[0] == 2
    # Without a threshold nobody is a stranger.
    plain, file = folder / 'plain.pth', tmp_path / 'plain.npz'
    assert run(GALLERY, 'enrol', plain, file, people)[0] == 0
    status, output, err = run(GALLERY, 'identify', plain, file, picture)
    assert (status, 'p0' in output) == (0, True)
    assert 'no threshold is known, so nobody is a stranger' in err


def test_the_benchmark_of_identification(run, folder, tmp_path):
    tool = 'benchmarks/identification.py'
    people = tmp_path / 'people'
    for person in range(6):
        for image in range(4):
            save(people / f'p{person}' / f'{image}.png', crop(person, image))
    out = tmp_path / 'r.json'
    options = ('--people', 3, '--images', 2, '--fpir', 0.25, '--json', out)
    status, output, _ = run(tool, people, folder / 'model.pth', *options)
    assert status == 0
    assert (
        '3 people enrolled with 2 images each; 6 searches for them, 12 for 3' in output
    )
    figures = json.loads(out.read_text())
    inferencer = FaceInferencer(folder / 'model.pth')
    rows = inferencer.embed(people).embeddings.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows.reshape(6, 4, 8)
    probes = np.concatenate([rows[:3, 2:].reshape(-1, 8), rows[3:].reshape(-1, 8)])
    scores = np.einsum('pid,qd->qpi', rows[:3, :2], probes).max(-1)
    right = scores[:6].argmax(1) == np.repeat(range(3), 2)
    best = scores.max(1)
    result = figures['scores']['best']
    assert result['rank_1'] == pytest.approx(right.mean())
    of_model, of_strangers = result['lines']
    assert of_model['tpir'] == pytest.approx((right & (best[:6] >= 0.99999)).mean())
    assert of_model['fpir'] == pytest.approx((best[6:] >= 0.99999).mean())
    # Strangers 0 and 2 set the first threshold, which is used on stranger 1.
    first, second = of_strangers['thresholds']
    halves = [np.isin(np.arange(12) // 4, x) for x in ([0, 2], [1])]
    wanted = [
        np.sort(best[6:][half])[::-1][n] for half, n in zip(halves, (2, 1), strict=True)
    ]
    assert [first, second] == pytest.approx(wanted, abs=1e-6)
    wrong = (best[6:][halves[1]] >= first).sum() + (best[6:][halves[0]] >= second).sum()
    assert of_strangers['fpir'] == pytest.approx(wrong / 12)
    status, _, err = run(tool, people, folder / 'model.pth', '--people', 5)
    assert status == 1
    assert 'too few to enrol 5' in err
