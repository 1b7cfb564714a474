"""Features of any origin, examined from the command line."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from ijb_files import write_ijb
from megaface_files import write_feature, write_megaface

from mmhyperface.datasets.readers import ijb_meta
from mmhyperface.evaluation import functional as F
from mmhyperface.inference import Face, FaceEmbeddings, feature_files
from mmhyperface.inference.embedding_files import save_embeddings
from mmhyperface.utils.choices import THRESHOLDS
from mmhyperface.weights.convention import Convention

DIM = 16


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    monkeypatch.setattr(ijb_meta, 'print_log', lambda msg, *_: lines.append(msg))
    return lines


@pytest.fixture
def orders(monkeypatch):
    """What is told of files whose rows have no names."""
    lines = []
    monkeypatch.setattr(feature_files, 'print_log', lambda msg, **_: lines.append(msg))
    return lines


@pytest.fixture
def run(run_tool, warnings, orders):
    """Calls the tool; its output, or the one line of an error."""

    def call(*arguments, status=0):
        done = run_tool('analysis_tools/eval_features.py', *arguments)
        assert done.status == status, done.err
        return done.err if status else done.out

    return call


def features(count, seed=0, owners=None):
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((count, DIM))
    if owners is not None:
        rows += 1.2 * np.random.default_rng(99).standard_normal((100, DIM))[owners]
    return rows.astype(np.float32)


def shown(output, label):
    """The rate in a line of a table, as a fraction."""
    line = next(line for line in output.splitlines() if f'| {label} ' in line)
    return float(re.search(r'\d+\.\d+', line.split('|', 2)[2])[0]) / 100


def assert_shown(output, **figures):
    for label, value in figures.items():
        label = label.replace('_', '-')
        assert shown(output, label) == pytest.approx(value, abs=5.1e-5)


@pytest.fixture(scope='module')
def ijb(tmp_path_factory):
    root = tmp_path_factory.mktemp('ijb')
    blank = np.zeros((112, 112, 3), np.uint8)
    truth = write_ijb(
        root, 'IJBB', 7, 4, image=lambda subject, number: blank, pictures=False
    )
    rows = features(len(truth.names), 1, truth.image_subjects)
    mirrored = features(len(truth.names), 2, truth.image_subjects)
    np.save(root / 'features.npy', rows)
    np.save(root / 'mirrored.npy', mirrored)
    np.save(root / 'half.npy', rows.astype(np.float16))
    np.save(root / 'fused.npy', rows + mirrored)
    return root, truth, rows, mirrored


POOLINGS = [
    ([], {}),
    (['--norm', 'unit'], {'norm': 'unit'}),
    (['--no-detector-scores', '--media', 'none'], {'media': 'none'}),
    (['--flip', 'concat', '--norm', 'unit'], {'flip': 'concat', 'norm': 'unit'}),
    (['--flip', 'none'], {'flip': 'none'}),
]


@pytest.mark.parametrize(('arguments', 'options'), POOLINGS)
def test_ijb(run, ijb, arguments, options):
    root, truth, rows, mirrored = ijb
    output = run(
        *('ijb', root / 'meta', root / 'features.npy', '--subset', 'IJBB'),
        *('--mirrored', root / 'mirrored.npy', *arguments),
    )
    ids, unit = F.pool_templates(
        rows,
        truth.template_ids,
        truth.media_ids,
        None if '--no-detector-scores' in arguments else truth.scores,
        mirrored,
        **options,
    )
    place = {template: row for row, template in enumerate(ids.tolist())}
    one, other = ([place[i] for i in column] for column in truth.pairs[:, :2].T)
    scores = F.score_pairs(unit, np.array(one), np.array(other))
    same = truth.pairs[:, 2]
    galleries = [
        (unit[[place[i] for i in members]], subjects)
        for members, subjects in truth.galleries.values()
    ]
    probes, subjects = truth.probes
    actual = F.identify(unit[[place[i] for i in probes]], subjects, galleries)
    assert_shown(
        output,
        EER=F.equal_error_rate(scores, same),
        AUC=F.auc(scores, same),
        rank_1=actual.figures()['rank-1'],
        rank_5=actual.figures()['rank-5'],
    )
    words = {
        'concat': 'image and mirror image concatenated',
        'none': 'no mirror images',
    }
    assert words.get(options.get('flip'), 'image + mirror image') in ' '.join(
        output.split()
    )


def test_ijb_without_mirror_images(run, warnings, ijb, tmp_path):
    root, *_ = ijb
    start = 'ijb', root / 'meta'
    both = root / 'features.npy', '--mirrored', root / 'mirrored.npy'
    apart = run(*start, *both, '--subset', 'IJBB')
    fused = run(*start, root / 'fused.npy', '--subset', 'IJBB')
    assert 'features as they were given' in ' '.join(fused.split())
    for label in ('EER', 'AUC', 'rank-1'):
        assert shown(fused, label) == shown(apart, label)
    (line,) = set(warnings)
    assert 'meta: this is not the whole IJBB: ' in line
    error = run('ijb', root, 'x.npy', '--subset', 'IJBB', status=1)
    assert f"no such file, but '{root}/meta' has the files of IJBB. Check" in error
    assert '--subset' in error
    single = run(*start, root / 'half.npy', '--subset', 'ijbb', '--protocols', '1:1')
    assert 'EER' in single
    assert 'rank-1' not in single
    search = *start, root / 'half.npy', '--subset', 'IJBB', '--protocols', '1:N'
    merged = run(*search, '--merged')
    assert 'EER' not in merged
    assert 'galleries merged' in merged
    options = ('--out', tmp_path / 'report', '--draws', 15)
    peer = run(*search, '--fpir-threshold', 'insightface', *options)
    content = json.loads((tmp_path / 'report' / 'report.json').read_text())
    assert content['title'] == f'{root}/half.npy on IJBB, {root}/meta'
    assert content['intervals']['draws'] == 15
    assert THRESHOLDS['insightface'] in ' '.join(peer.split())


def test_pairs_in_three_layouts(run, tmp_path):
    same = np.arange(40) % 2 == 0
    owners = np.arange(80) // 2
    owners[3::4] += 41
    rows, mirrored = features(80, 3, owners), features(80, 4, owners)
    np.save(tmp_path / 'features.npy', rows)
    np.save(tmp_path / 'mirrored.npy', mirrored)
    np.save(tmp_path / 'same.npy', same)
    (tmp_path / 'lfw.bin').write_bytes(pickle.dumps(([b'image'] * 80, same.tolist())))
    (tmp_path / 'list.txt').write_text(
        ''.join(f'{int(x)} {2 * i}.jpg {2 * i + 1}.jpg\n' for i, x in enumerate(same))
    )
    fused = rows + mirrored
    scores = F.score_pairs(fused, np.arange(0, 80, 2), np.arange(1, 80, 2))
    accuracy = F.kfold_accuracy(scores, same, 4)
    for name in ('same.npy', 'lfw.bin', 'list.txt'):
        output = run(
            *('pairs', tmp_path / name, tmp_path / 'features.npy'),
            *('--mirrored', tmp_path / 'mirrored.npy', '--folds', 4),
        )
        assert_shown(
            output,
            accuracy=accuracy.mean,
            EER=F.equal_error_rate(scores, same),
            AUC=F.auc(scores, same),
        )
    output = run(
        *('pairs', tmp_path / 'same.npy', tmp_path / 'features.npy'),
        *('--folds', 0, '--accuracy', 'global'),
    )
    plain = F.score_pairs(rows, np.arange(0, 80, 2), np.arange(1, 80, 2))
    assert_shown(output, accuracy=F.global_accuracy(plain, same).accuracy)


def lfw_list(tmp_path, header, folds):
    """In each fold three pairs of one person and three of two; and its features."""
    pairs, lines = [], [header]
    for fold in range(folds):
        for i in range(3):
            lines.append(f'p{fold}{i}\t1\t2')
            pairs.append((f'p{fold}{i}/1', f'p{fold}{i}/2'))
        for i in range(3):
            other = f'p{fold}{(i + 1) % 3}'
            lines.append(f'p{fold}{i}\t1\t{other}\t2')
            pairs.append((f'p{fold}{i}/1', f'{other}/2'))
    (tmp_path / 'pairs.txt').write_text('\n'.join(lines))
    images = list(dict.fromkeys(image for pair in pairs for image in pair))
    owners = np.unique([i.split('/')[0] for i in images], return_inverse=True)[1]
    rows = features(len(images), 8, owners)
    np.save(tmp_path / 'features.npy', rows)
    one, other = (np.array([images.index(p[side]) for p in pairs]) for side in (0, 1))
    same = np.tile(np.repeat([True, False], 3), folds)
    return F.score_pairs(rows, one, other), same


def test_a_list_of_lfw_has_its_own_folds(run, tmp_path):
    scores, same = lfw_list(tmp_path, '4\t3', 4)
    command = 'pairs', tmp_path / 'pairs.txt', tmp_path / 'features.npy'
    output = run(*command)
    accuracy = F.kfold_accuracy(scores, same, np.repeat(np.arange(4), 6))
    assert_shown(output, accuracy=accuracy.mean, AUC=F.auc(scores, same))
    assert '4 folds from the list' in ' '.join(output.split())
    output = run(*command, '--folds', 2)
    accuracy = F.kfold_accuracy(scores, same, np.repeat(np.arange(2), 12))
    assert_shown(output, accuracy=accuracy.mean)
    assert '10 folds stratified' in ' '.join(run(*command, '--folds', 0).split())
    # One without folds, the different pairs last.
    lines = (tmp_path / 'pairs.txt').read_text().splitlines()
    lines = ['12', *sorted(lines[1:], key=lambda line: line.count('\t'))]
    (tmp_path / 'pairs.txt').write_text('\n'.join(lines))
    assert '10 folds stratified' in ' '.join(run(*command).split())


def test_lists_that_do_not_fit(run, tmp_path):
    np.save(tmp_path / 'features.npy', features(8))
    lines = [f'{int(i < 2)} {i}a {i}b\n' for i in range(4)]
    (tmp_path / 'list.txt').write_text(''.join(lines))
    for arguments, message in (
        (['gone.txt'], 'there is no list of pairs'),
        (['gone.bin'], 'there is no list of pairs'),
        (['list.txt', '--folds', 2], 'fold 1 holds only .*goes without: --folds 0$'),
        (['list.txt'], 'folds=10 of the 4 pairs .*without folds: --folds 0$'),
        (['list.txt', '--folds', -1], 'folds=-1 of the 4 pairs'),
    ):
        name, *more = arguments
        error = run(
            *('pairs', tmp_path / name, tmp_path / 'features.npy', *more), status=1
        )
        assert re.search(message, error, re.MULTILINE), error
        assert '--cfg-options' not in error
        assert 'folds=None' not in error


def test_images_of_a_list_stand_in_the_order_of_their_first_line(run, tmp_path):
    pairs = [(1, 'c', 'a'), (0, 'a', 'b'), (1, 'b', 'c'), (0, 'd', 'c')]
    text = ''.join(f'{same} {one} {other}\n' for same, one, other in pairs)
    (tmp_path / 'list.txt').write_text(text)
    rows = features(4, 5)
    np.save(tmp_path / 'features.npy', rows)
    about = {'config': 'r50.py', 'checkpoint': 'r50.pth', 'test_sets': {}}
    (tmp_path / 'features.json').write_text(json.dumps(about))
    place = {'c': 0, 'a': 1, 'b': 2, 'd': 3}
    one, other = (np.array([place[p[side]] for p in pairs]) for side in (1, 2))
    scores = F.score_pairs(rows, one, other)
    output = run(
        *('pairs', tmp_path / 'list.txt', tmp_path / 'features.npy'),
        *('--folds', 2, '--out', tmp_path / 'report', '--draws', 0),
    )
    assert_shown(output, AUC=F.auc(scores, [1, 0, 1, 0]))
    content = json.loads((tmp_path / 'report' / 'report.json').read_text())
    assert content['title'] == f'{tmp_path}/features.npy on {tmp_path}/list.txt'
    assert content['intervals']['draws'] == 0
    assert (content['config'], content['checkpoint']) == ('r50.py', 'r50.pth')
    row = content['sets']['list']['1:1']['rows']['features']
    assert row['figures']['auc'] == F.auc(scores, [1, 0, 1, 0])
    assert (tmp_path / 'report' / 'report.html').is_file()


def test_places_are_checked_before_the_work(run, tmp_path):
    (tmp_path / 'file').touch()
    for place in (tmp_path / 'file', tmp_path / 'file' / 'below'):
        # Neither the meta files nor the features are there.
        error = run('ijb', 'gone', 'gone.npy', '--out', place, status=1)
        assert f'{tmp_path / "file"} is no folder' in error


@pytest.fixture(scope='module')
def megaface(tmp_path_factory):
    root = tmp_path_factory.mktemp('megaface')
    truth = write_megaface(root, 5, 3, 21, 2, 3, image=None, pictures=False)
    owners = np.array(truth.probe_subjects)
    probes, distractors = features(15, 6, owners), features(21, 7)
    np.save(root / 'probes.npy', probes)
    np.save(root / 'distractors.npy', distractors)
    return root, truth, probes, distractors


@pytest.mark.parametrize('noise', ['remove', 'overwrite', None])
def test_megaface(run, megaface, noise):
    root, truth, probes, distractors = megaface
    output = run(
        *('megaface', root, root / 'probes.npy', root / 'distractors.npy'),
        *(['--noise', noise] if noise else ['--no-noise-lists']),
    )
    actual = F.megaface_identification(
        probes,
        np.array(truth.probe_subjects),
        distractors,
        counts=(10, 21),
        noisy_probes=np.array(truth.noisy_probes) if noise else None,
        noisy_distractors=np.array(truth.noisy_distractors) if noise else None,
        noise=noise or 'remove',
    ).figures()
    for count in (10, 21):
        assert shown(output, f'rank-1, {count} distractors') == pytest.approx(
            actual[f'rank-1@{count}'], abs=5.1e-5
        )


def test_files_of_the_devkit(run, megaface):
    root, truth, probes, distractors = megaface
    for name, paths, rows in (
        ('facescrub', truth.probes, probes),
        ('megaface', truth.distractors, distractors),
    ):
        for path, row in zip(paths, rows, strict=True):
            file = root / 'features' / name / f'{path}_ours.bin'
            file.parent.mkdir(parents=True, exist_ok=True)
            write_feature(file, row.astype(np.float32))
    folders = root / 'features' / 'facescrub', root / 'features' / 'megaface'
    output = run('megaface', root, *folders, '--suffix', '_ours.bin')
    arrays = run('megaface', root, root / 'probes.npy', root / 'distractors.npy')
    figures = [line for line in arrays.splitlines() if 'rank-1' in line]
    assert figures
    assert [line for line in output.splitlines() if 'rank-1' in line] == figures
    write_feature(file, row[1:])
    error = run('megaface', root, *folders, '--suffix', '_ours.bin', status=1)
    assert f'{file}: has {len(row) - 1} values, but the features before it' in error
    write_feature(file, row)
    for folder in folders:
        paths = [root / 'probes.npy', root / 'distractors.npy']
        paths[folders.index(folder)] = folder
        error = run('megaface', root, *paths, status=1)
        assert re.search(r"there is no such file\. .* is --suffix, here ''$", error)


def test_a_part_that_is_cleaned_is_told_at_once(run, megaface):
    root, truth, _, distractors = megaface
    folder = root / 'cleaned'
    write_feature(folder / f'{truth.distractors[0]}.bin', distractors[0], 100)
    # The other files are not even there.
    error = run(
        *('megaface', root, root / 'probes.npy', folder, '--suffix', '.bin'), status=1
    )
    assert re.search(r'probes\.npy has .* of 16 values, .*cleaned of 17: one', error)
    np.save(root / 'narrow.npy', distractors[:, :9])
    start = 'megaface', root, root / 'probes.npy'
    error = run(*start, root / 'narrow.npy', status=1)
    assert 'of 16 values' in error
    assert 'of 9\n' in error


def test_only_noise_may_have_no_direction(run, megaface):
    root, truth, _, distractors = megaface
    np.save(root / 'nan.npy', spoil(distractors, 20, np.nan))
    command = 'megaface', root, root / 'probes.npy', root / 'nan.npy'
    assert 'rank-1' in run(*command)
    error = run(*command, '--no-noise-lists', status=1)
    place = f'is row 20; the first is of {truth.distractors[20]}'
    assert f'nan.npy: zero, NaN or infinite, counted from 0, {place}' in error
    np.save(root / 'nan.npy', spoil(distractors, [3, 20], np.nan))
    assert f'is row 3; the first is of {truth.distractors[3]}' in run(
        *command, status=1
    )


def test_lists_of_noise_that_are_missing_or_empty(run, megaface, tmp_path):
    root, *_ = megaface
    for name in ('facescrub_lst', 'megaface_lst', 'megaface_noises.txt'):
        (tmp_path / name).write_text((root / name).read_text())
    command = 'megaface', tmp_path, root / 'probes.npy', root / 'distractors.npy'
    error = run(*command, status=1)
    assert 'Check the folder of the lists; without a list of noise: --no-noise' in error
    (tmp_path / 'facescrub_noises.txt').write_text('# nothing\n')
    error = run(*command, status=1)
    assert 'noises.txt: lists no image. ' in error
    assert error.endswith('without a list of noise: --no-noise-lists\n')
    assert 'rank-1' in run(*command, '--no-noise-lists')


def test_fewer_distractors(run, megaface):
    root, _, _, distractors = megaface
    np.save(root / 'few.npy', distractors[:12])
    start = 'megaface', root, root / 'probes.npy', root / 'few.npy'
    output = run(*start, '--num-distractors', 12, '--counts', 5)
    assert 'rank-1, 5 distractors' in output
    assert 'rank-1, 12' not in output
    error = run(*start, status=1)
    assert 'few.npy has 12 rows, but the list of the distractors tells of 21' in error
    error = run(*start, '--num-distractors', 12, '--counts', 13, status=1)
    assert '13 distractors are asked for, but the set has 12' in error


def save_named(path, rows, paths, problems=()):
    """As embed.py does; a problem is (path, what is wrong)."""
    faces = [
        Face(name, embedding=row) for name, row in zip(paths, rows, strict=True)
    ] + [Face(name, problem=why) for name, why in problems]
    convention = Convention(
        input_size=(32, 32),
        mean=(127.5,) * 3,
        std=(127.5,) * 3,
        channel_order='RGB',
        flip_fusion='concat',
        embedding_size=DIM,
        resize=False,
        network={},
    )
    save_embeddings(path, FaceEmbeddings(faces, DIM), convention, overwrite=True)


@pytest.mark.parametrize('ending', ['npz', 'parquet'])
def test_embeddings_are_matched_by_name(run, orders, tmp_path, ending):
    """A .npy file in another order was accepted by the number of its rows."""
    if ending == 'parquet':
        pytest.importorskip('pyarrow')
    scores, same = lfw_list(tmp_path, '4\t3', 4)
    rows = np.load(tmp_path / 'features.npy')
    lines = (tmp_path / 'pairs.txt').read_text().splitlines()[1:]
    images = {}
    for name, *rest in (line.split('\t') for line in lines):
        other = rest[1] if len(rest) == 3 else name
        for person, number in ((name, rest[0]), (other, rest[-1])):
            images.setdefault(f'{person}/{person}_{int(number):04d}.jpg')
    turns = np.random.default_rng(0).permutation(len(rows))
    paths = [f'all/crops/{list(images)[i]}' for i in turns]
    more = [*paths, 'all/crops/nobody/1.jpg']
    saved = tmp_path / f'e.{ending}'
    save_named(saved, np.concatenate([rows[turns], rows[:1]]), more)
    output = run('pairs', tmp_path / 'pairs.txt', saved)
    assert not orders
    assert_shown(output, AUC=F.auc(scores, same))
    assert 'image and mirror image concatenated' in ' '.join(output.split())

    np.save(tmp_path / 'turned.npy', rows[turns])
    output = run('pairs', tmp_path / 'pairs.txt', tmp_path / 'turned.npy')
    assert shown(output, 'AUC') != pytest.approx(F.auc(scores, same), abs=1e-3)
    (parsed,) = orders
    assert f'row i is taken for image i of {tmp_path}/pairs.txt' in parsed

    # The same test set in a config, whose images are elsewhere than those embedded.
    config = tmp_path / 'config.py'
    config.write_text(
        f"""
test_dataloader = dict(dataset=dict(
    type='FacePairs', ann_file='pairs.txt', data_root='{tmp_path}',
    data_prefix='elsewhere'))
test_evaluator = dict(type='FaceVerification')
"""
    )
    assert_shown(run('config', config, saved), AUC=F.auc(scores, same))
    assert len(orders) == 1
    run('config', config, tmp_path / 'turned.npy')
    assert 'image i of the data set of the config' in orders[1]


def test_images_of_ijb_and_megaface_are_matched_by_name(run, orders, ijb, megaface):
    root, truth, rows, mirrored = ijb
    names = [name.decode() if isinstance(name, bytes) else name for name in truth.names]
    place = 'ijb', '--protocols', '1:1', '--subset', 'IJBB', root / 'meta'
    fused = rows + mirrored
    save_named(root / 'e.npz', fused[::-1], [f'loose/{name}' for name in names[::-1]])
    wanted = shown(run(*place, root / 'fused.npy'), 'EER')
    assert len(orders) == 1
    assert shown(run(*place, root / 'e.npz'), 'EER') == wanted
    error = run(*place, root / 'e.npz', '--mirrored', root / 'mirrored.npy', status=1)
    assert 'leave out --mirrored and --flip' in error
    error = run(*place, root / 'features.npy', '--mirrored', root / 'e.npz', status=1)
    assert 'expected a .npy file' in error

    root, truth, probes, distractors = megaface
    for name, listed, features in (
        ('probes', truth.probes, probes),
        ('distractors', truth.distractors, distractors),
    ):
        save_named(root / f'{name}.npz', features[::-1], listed[::-1])
    start = 'megaface', root
    wanted = run(*start, root / 'probes.npy', root / 'distractors.npy')
    actual = run(*start, root / 'probes.npz', root / 'distractors.npz')
    assert shown(actual, 'rank-1, 21 distractors') == shown(
        wanted, 'rank-1, 21 distractors'
    )


def test_names_that_do_not_fit(run, tmp_path):
    names = [f'{person}/{i}.jpg' for person in 'ab' for i in range(2)]
    lines = [(1, 0, 1), (0, 0, 2), (1, 2, 3), (0, 1, 3)]
    (tmp_path / 'list.txt').write_text(
        ''.join(f'{same} {names[i]} {names[j]}\n' for same, i, j in lines)
    )
    command = 'pairs', tmp_path / 'list.txt', tmp_path / 'e.npz', '--folds', 0
    rows = features(5)
    twice = 'b/1.jpg could be b/1.jpg, x/b/1.jpg; embed the folder'
    for paths, problems, message in (
        (
            names[:3],
            [(names[3], 'no face is found')],
            'e.npz has no embedding of 1 of 4 images of .*list.txt: b/1.jpg; it tells '
            'of the first: no face is found$',
        ),
        ([*names, 'x/b/1.jpg'], [], twice),
        # The one that is meant may have no embedding.
        (names, [('x/b/1.jpg', 'no face')], twice),
        (
            [*names, 'b/1.jpg'],
            [],
            'b/1.jpg could be any of its 2 faces; embed one face of each.*--choose la',
        ),
        # Basenames alone are not enough.
        ([Path(name).name for name in names], [], 'has no embedding of 4 of 4 images'),
    ):
        save_named(tmp_path / 'e.npz', rows[: len(paths)], paths, problems)
        error = run(*command, status=1)
        assert re.search(message, error, re.MULTILINE), error

    np.save(tmp_path / 'same.npy', np.array([1, 0]))
    command = 'pairs', tmp_path / 'same.npy', tmp_path / 'e.npz', '--folds', 0
    assert 'same.npy has no names of images: give a .npy file' in run(
        *command, status=1
    )
    np.savez(tmp_path / 'e.npz', rows=rows)
    command = 'pairs', tmp_path / 'list.txt', tmp_path / 'e.npz', '--folds', 0
    assert 'e.npz cannot be read as embeddings that' in run(*command, status=1)


def spoil(rows, where, value):
    rows = rows.copy()
    rows[where] = value
    return rows


def test_bad_files_are_told_at_once(run, ijb, tmp_path):
    root, _, rows, _ = ijb
    command = 'ijb', root / 'meta', tmp_path / 'x.npy', '--subset', 'IJBB'
    for content, message in (
        (rows[1:], rf'x\.npy has {len(rows) - 1} rows, but .*tells of {len(rows)}'),
        (rows[0], r'expected features \[N, D\] .* shape \[16\]'),
        (rows.astype(np.int32), 'got int32'),
        (np.array([{}]), r'cannot be read as a \.npy file'),
        (
            spoil(rows, (3, 2), np.nan),
            r'x\.npy: .*, counted from 0, is row 3; .* 4\.jpg$',
        ),
        (spoil(rows, 4, 0), r'is row 4; the first is of 5\.jpg$'),
    ):
        np.save(tmp_path / 'x.npy', content, allow_pickle=True)
        error = run(*command, status=1)
        assert error.startswith('error: ')
        assert re.search(message, error, re.MULTILINE), error
    np.savez(tmp_path / 'x.npz', rows=rows)
    (tmp_path / 'x.npz').rename(tmp_path / 'x.npy')
    assert 'an archive of several arrays' in run(*command, status=1)
    (tmp_path / 'x.npy').unlink()
    assert 'cannot be read' in run(*command, status=1)

    np.save(tmp_path / 'x.npy', rows)
    assert '--mirrored' in run(*command, '--flip', 'sum', status=1)
    np.save(tmp_path / 'narrow.npy', rows[:, :5])
    error = run(*command, '--mirrored', tmp_path / 'narrow.npy', status=1)
    assert '16 values' in error
    assert 'of 5' in error
    np.save(tmp_path / 'nan.npy', spoil(rows, 5, np.nan))
    error = run(*command, '--mirrored', tmp_path / 'nan.npy', status=1)
    assert 'nan.npy: zero, NaN or infinite, counted from 0, is row 5' in error


def test_ijb_without_the_files_of_a_protocol(run, ijb, tmp_path):
    for path in (ijb[0] / 'meta').glob('*.txt'):
        (tmp_path / path.name).write_text(path.read_text())
    error = run('ijb', tmp_path, 'x.npy', '--subset', 'IJBB', status=1)
    assert error.endswith('or go without it: --protocols 1:1\n')


def test_bad_labels(run, tmp_path):
    np.save(tmp_path / 'features.npy', features(8))
    for labels, got in (
        (np.array([0.0, 1]), 'float64 of shape [2]'),
        (np.array([], bool), 'bool of shape [0]'),
        (np.array([0, 2]), 'values from 0 to 2'),
    ):
        np.save(tmp_path / 'same.npy', labels)
        error = run('pairs', tmp_path / 'same.npy', tmp_path / 'features.npy', status=1)
        assert 'same.npy: expected True and False, or the integers 1 and 0' in error
        assert f'got {got}' in error
