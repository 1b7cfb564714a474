import copy
import csv
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from ijb_files import GALLERIES, write_ijb
from torch.utils.data import DataLoader

from mmhyperface.datasets import FaceTestSets, IJBTemplates, collate_faces
from mmhyperface.datasets.readers import ijb_meta
from mmhyperface.datasets.readers.ijb_meta import read_ijb_meta
from mmhyperface.datasets.template_sets import TemplateProtocols
from mmhyperface.registry import DATASETS
from mmhyperface.utils.errors import UserError

PIPELINE = [
    dict(type='LoadFace', size=None),
    dict(type='AlignFace', size=(112, 112)),
    dict(type='PackFace'),
]


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
    """The truth of both sets, with images; not to be changed."""
    root = tmp_path_factory.mktemp('ijb')
    return {
        subset: write_ijb(root / subset, subset, seed=seed)
        for seed, subset in enumerate(GALLERIES)
    }


@pytest.fixture
def meta(tmp_path):
    """A folder of meta files alone, to be spoiled."""
    write_ijb(tmp_path, pictures=False)
    return tmp_path / 'meta'


def edit(path: Path, change) -> None:
    """Changes the list of a file's lines in place."""
    lines = path.read_text().splitlines()
    changed = change(lines)
    path.write_text('\n'.join(lines if changed is None else changed) + '\n')


def refused(meta: Path, message: str, **kwargs) -> None:
    with pytest.raises(UserError, match=message):
        read_ijb_meta(str(meta), 'IJBC', **kwargs)


# Meta files ---------------------------------------------------------------------


@pytest.mark.parametrize('subset', GALLERIES)
def test_protocols_by_a_loop_over_the_files(shared, subset):
    """Ids of rows, against what the csv module and split find."""
    folder, prefix = shared[subset].root / 'meta', subset.lower()
    actual = read_ijb_meta(str(folder), subset).protocol
    lines = (folder / f'{prefix}_face_tid_mid.txt').read_text().splitlines()
    ids = sorted({int(line.split()[1]) for line in lines})
    assert len(actual.subjects) == len(ids)

    lines = (folder / f'{prefix}_template_pair_label.txt').read_text().splitlines()
    rows_a, rows_b, same = actual.pairs
    assert rows_a.dtype == rows_b.dtype == np.int32
    assert same.dtype == bool
    triples = zip(rows_a.tolist(), rows_b.tolist(), same.tolist(), strict=True)
    assert [f'{ids[a]} {ids[b]} {int(s)}' for a, b, s in triples] == lines

    subjects = [-1] * len(ids)
    parts = {f'gallery_{name}': part for name, part in actual.galleries.items()}
    assert list(actual.galleries) == list(GALLERIES[subset])
    for name, (rows, own) in {**parts, 'probe_mixed': actual.probes}.items():
        with open(folder / f'{prefix}_1N_{name}.csv') as file:
            expected = {
                (int(line[0]), int(line[1])) for line in list(csv.reader(file))[1:]
            }
        assert rows.dtype == own.dtype == np.int64
        assert sorted(zip((ids[r] for r in rows), own.tolist(), strict=True)) == sorted(
            expected
        )
        for template, subject in expected:
            subjects[ids.index(template)] = subject
    assert actual.subjects.tolist() == subjects


def test_one_protocol_needs_no_files_of_the_other(meta):
    whole = read_ijb_meta(str(meta), 'IJBC').protocol
    pairs = meta / 'ijbc_template_pair_label.txt'
    pairs.rename(meta / 'elsewhere')
    refused(meta, r'pair_label\.txt: there is no such file, which 1:1')
    actual = read_ijb_meta(str(meta), 'IJBC', protocols=('1:N',)).protocol
    assert actual.pairs is None
    np.testing.assert_array_equal(actual.subjects, whole.subjects)
    (meta / 'elsewhere').rename(pairs)
    for path in meta.glob('*1N*'):
        path.unlink()
    refused(
        meta,
        r'ijbc_1N_gallery_G1\.csv: there is no such file, which 1:N needs\. Look, or '
        r"go without it: protocols=\['1:1'\]$",
        advice='Look',
    )
    actual = read_ijb_meta(str(meta), 'IJBC', protocols=['1:1']).protocol
    assert (actual.probes, actual.galleries) == (None, {})
    assert (actual.subjects == -1).all()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(subset='IJBA'), r"subset is \('IJBB', 'IJBC'\), got 'IJBA'"),
        (dict(protocols='1:1'), r"protocols is some of .* got '1:1'"),
        (dict(protocols=['1:2']), 'protocols is some of'),
        (dict(protocols=[]), 'protocols is some of'),
        (dict(meta_dir='gone'), r"there is no folder 'gone'\. Check the folder"),
        (dict(subset='IJBB'), r'ijbb_name_5pts_score\.txt: there is no such file'),
    ],
)
def test_arguments(meta, arguments, message):
    with pytest.raises(UserError, match=message):
        read_ijb_meta(**{'meta_dir': str(meta), 'subset': 'IJBC', **arguments})


def set_field(line, field, value, separator=' '):
    def change(lines):
        fields = lines[line].split(separator)
        fields[field] = value
        lines[line] = separator.join(fields)

    return change


SCORES, TEMPLATES, PAIRS = 'name_5pts_score', 'face_tid_mid', 'template_pair_label'
G1, G2, PROBES = '1N_gallery_G1', '1N_gallery_G2', '1N_probe_mixed'


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        (SCORES, lambda lines: lines[:-1], r'mid\.txt has 43 .*score\.txt has 42'),
        (TEMPLATES, lambda lines: lines[3:], r'mid\.txt has 40 .*score\.txt has 43'),
        (
            TEMPLATES,
            lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]],
            r':5: another image than in .*score\.txt .2 of 43 lines',
        ),
        (SCORES, set_field(2, 4, 'nan'), ':3: a landmark is no finite number .1 of 43'),
        (SCORES, set_field(2, 10, '-inf'), ':3: a landmark is no finite number'),
        (SCORES, set_field(7, 11, '-0.5'), ':8: the score is no number ≥ 0'),
        (SCORES, set_field(7, 11, 'nan'), ':8: the score is no number'),
        (SCORES, set_field(7, 11, 'inf'), ':8: the score is no number'),
        (SCORES, set_field(7, 11, ''), ':8: expected `name x1 y1'),
        (
            SCORES,
            lambda lines: [*lines[:5], '6.jpg' + 5 * ' 3 4' + ' 1', *lines[6:]],
            ':6: all five landmarks are one point .1 of 43 lines',
        ),
        (TEMPLATES, set_field(7, 1, '1.5'), ':8: expected `name template m'),
        (PAIRS, set_field(4, 1, '99999'), ':5: templates without an image: 99999 .1 '),
        (PAIRS, set_field(71, 0, '-3'), ':72: templates without an image: -3 '),
        (PAIRS, set_field(4, 2, '2'), ':5: the label is neither 0 nor 1 .1 of'),
        (PAIRS, set_field(4, 2, ''), ':5: expected `template tem'),
        (PAIRS, lambda lines: [x for x in lines if x[-1] == '0'], 'all 60 pairs are'),
        (PAIRS, lambda lines: [''], 'has no line'),
        (PROBES, set_field(3, 0, '88888', ','), ':4: templates without an .*: 88888 '),
        (G2, set_field(1, 1, '-1', ','), ':2: a subject below'),
        (G2, set_field(1, 1, 'x', ','), ':2: expected `templ'),
        (G1, lambda lines: lines[1:], ':1: expected a header line'),
        (
            G1,
            lambda lines: [*lines, lines[1].replace(',', ',7', 1)],
            r':\d+: the template has another subject in an earlier line .1 of',
        ),
    ],
)
def test_spoiled_files(meta, name, change, message):
    ending = '.csv' if name.startswith('1N') else '.txt'
    edit(meta / f'ijbc_{name}{ending}', change)
    refused(meta, message)


@pytest.mark.parametrize('name', [PROBES, G2])
@pytest.mark.parametrize('fields', [1, 2, 6])
def test_a_table_that_is_cut_within_a_line(meta, name, fields):
    edit(
        meta / f'ijbc_{name}.csv',
        lambda lines: [*lines[:-1], ','.join(lines[-1].split(',')[:fields])],
    )
    refused(meta, rf'{name}\.csv:\d+: (expected|the last line has fewer fields)')


def test_a_table_that_is_cut_between_lines(meta, warnings):
    path = meta / 'ijbc_1N_probe_mixed.csv'
    last = path.read_text().splitlines()[-1].split(',')[0]
    edit(path, lambda lines: [x for x in lines if not x.startswith(f'{last},')])
    # The pairs are those of templates that still are there.
    actual = read_ijb_meta(str(meta), 'IJBC').protocol
    assert (actual.subjects < 0).sum() == 1
    message, sizes = warnings
    assert message == (
        f'{meta}: 1 of 18 templates are in no gallery and no probe list: is a file cut '
        'off?'
    )
    assert '11 probes (published: 19,593)' in sizes


def test_sizes_are_those_that_were_published(meta, warnings, monkeypatch):
    read_ijb_meta(str(meta), 'IJBC')
    (line,) = warnings
    assert line == (
        f'{meta}: this is not the whole IJBC: 43 images (published: 469,375), 18 '
        'templates (published: 23,124), 72 pairs (published: 15,658,489), 12 probes '
        '(published: 19,593), 3 gallery G1 (published: 1,772), 3 gallery G2 '
        '(published: 1,759)'
    )
    read_ijb_meta(str(meta), 'IJBC', protocols=['1:1'])
    assert 'probes' not in warnings[1]
    sizes = {'images': 43, 'templates': 18, 'pairs': 72, 'gallery G1': 3}
    monkeypatch.setitem(ijb_meta.SIZES, 'IJBC', sizes)
    read_ijb_meta(str(meta), 'IJBC')
    assert len(warnings) == 2


def flip_labels(line_numbers, repeated=1):
    def change(lines):
        lines *= repeated
        for number in line_numbers:
            lines[number] = lines[number][:-1] + str(1 - int(lines[number][-1]))

    return change


def test_labels_that_contradict_the_subjects(meta, warnings):
    path = meta / 'ijbc_template_pair_label.txt'
    labels = [int(line[-1]) for line in path.read_text().splitlines()]
    text = path.read_text()
    for label in (0, 1):
        place = labels.index(label)
        path.write_text(text)
        edit(path, flip_labels([place]))
        refused(
            meta,
            rf'label\.txt:{place + 1}: the label contradicts the subjects .*\(1 of 72',
        )
        # Where nothing tells of subjects, nothing contradicts.
        read_ijb_meta(str(meta), 'IJBC', protocols=['1:1'])
        del warnings[:]
        path.write_text(text)
        edit(path, flip_labels([place, place + 72 * 3], repeated=40))
        actual = read_ijb_meta(str(meta), 'IJBC').protocol
        assert (actual.pairs[2] != np.tile(labels, 40)).sum() == 2
        assert warnings[0].startswith(f'{path}:{place + 1}: the label contradicts')
        assert warnings[0].endswith('(2 of 2880 lines)')
        del warnings[:]


def test_files_elsewhere(meta):
    refused(
        meta.parent, rf"score\.txt: there is no such file, but '{meta}' has the file"
    )
    with pytest.raises(UserError, match=rf"but '{meta}' has the files of IJBC\. Look"):
        read_ijb_meta(str(meta), 'IJBB', advice='Look')


def test_a_template_without_weight(meta, tmp_path):
    lines = (meta / 'ijbc_face_tid_mid.txt').read_text().splitlines()
    template = lines[0].split()[1]
    for i, line in enumerate(lines):
        if line.split()[1] == template:
            edit(meta / 'ijbc_name_5pts_score.txt', set_field(i, 11, '0'))
    refused(
        meta,
        rf'score\.txt: templates without a detector score.*: {template}$',
    )


@pytest.mark.parametrize(
    ('name', 'template_of', 'subject_of', 'message'),
    [
        ('gallery_G2', 'gallery_G2', 'gallery_G1', 'subjects that are in another g'),
        ('gallery_G1', 'probe_mixed', 'gallery_G1', 'subjects with more than one te'),
        ('probe_mixed', 'gallery_G1', None, 'templates with another subject in anot'),
        ('probe_mixed', 'gallery_G1', 'gallery_G1', 'probes that are in a gallery t'),
    ],
)
def test_files_that_contradict_each_other(meta, name, template_of, subject_of, message):
    def first_line(of):
        path = meta / f'ijbc_1N_{of}.csv'
        return path.read_text().splitlines()[1].split(',')

    template = first_line(template_of)[0]
    subject = first_line(subject_of)[1] if subject_of else '9999'

    def change(lines):
        if name == template_of:
            lines = [x for x in lines if not x.startswith(f'{template},')]
        return [*lines, f'{template},{subject},,,,,']

    edit(meta / f'ijbc_1N_{name}.csv', change)
    ending = subject if message.startswith('subjects') else template
    refused(meta, rf'{name}\.csv: {message}.*: {ending}$')


def test_protocols_are_one_object_and_read_only(shared):
    actual = read_ijb_meta(str(shared['IJBC'].root / 'meta'), 'IJBC').protocol
    assert copy.deepcopy({'a': [actual]})['a'][0] is actual
    for array in (
        actual.subjects,
        *actual.pairs,
        *actual.probes,
        *actual.galleries['G1'],
    ):
        with pytest.raises(ValueError, match='read-only'):
            array[0] = 0
    again = pickle.loads(pickle.dumps(actual))
    np.testing.assert_array_equal(again.pairs[0], actual.pairs[0])
    assert TemplateProtocols(np.array([-1])).pairs is None


# The data set -------------------------------------------------------------------


@pytest.mark.parametrize('subset', GALLERIES)
def test_items(shared, subset):
    truth = shared[subset]
    dataset = IJBTemplates(str(truth.root), subset)
    assert len(dataset) == len(truth.names)
    for i, name in enumerate(truth.names):
        item = dataset.get_data_info(i)
        assert item['img_path'] == str(truth.root / 'loose_crop' / name)
        np.testing.assert_array_equal(item['landmarks'], truth.landmarks[i])
        assert item['landmarks'].dtype == np.float32
        assert item['sample_idx'] == i
        item['landmarks'][:] = 0  # of this item alone
    assert dataset.get_data_info(0)['landmarks'].all()
    assert dataset[-1]['sample_idx'] == len(dataset) - 1
    few = dataset.get_subset([7, 3])
    assert [few.get_data_info(i)['img_path'] for i in range(2)] == [
        dataset.get_data_info(i)['img_path'] for i in (7, 3)
    ]
    for idx in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError):
            dataset.get_data_info(idx)

    sets = dataset.metainfo['test_sets']
    assert list(sets) == [subset.lower()]
    entry = sets[subset.lower()]
    assert (entry['kind'], entry['offset']) == ('templates', 0)
    assert entry['num_images'] == len(dataset)
    for key, expected in (
        ('template_ids', truth.template_ids),
        ('media_ids', truth.media_ids),
        ('detector_scores', truth.scores),
    ):
        np.testing.assert_array_equal(entry[key], expected)
        assert entry[key].dtype == expected.dtype
    assert list(entry['protocol'].galleries) == list(GALLERIES[subset])


@pytest.mark.parametrize('num_workers', [0, 2])
def test_aligned_images_show_the_faces(shared, num_workers):
    truth = shared['IJBC']
    dataset = DATASETS.build(
        dict(
            type='mmhyperface.IJBTemplates',
            data_root=str(truth.root),
            pipeline=PIPELINE,
            test_mode=True,
        )
    )
    loader = DataLoader(
        dataset, batch_size=16, num_workers=num_workers, collate_fn=collate_faces
    )
    aligned = [image.numpy() for batch in loader for image in batch['inputs']]
    assert len(aligned) == len(truth.names)
    for i, image in enumerate(aligned):
        face = truth.image(truth.image_subjects[i], truth.numbers[i])
        assert image.shape == (3, 112, 112)
        # Without the noise of single pixels, and the rim, which was made up.
        crop, face = (
            cv2.blur(picture, (3, 3))[4:-4, 4:-4].ravel()
            for picture in (image.transpose(1, 2, 0), face)
        )
        assert np.corrcoef(crop, face)[0, 1] > 0.98


def test_missing_images(tmp_path):
    truth = write_ijb(tmp_path / 'set', subjects=2)
    for name in truth.names[3:5]:
        (truth.root / 'loose_crop' / name).unlink()
    with pytest.raises(
        UserError, match=r"2 of the \d+ images .* are not in '.*loose_crop', .*'4\.jpg'"
    ):
        IJBTemplates(str(truth.root))
    dataset = IJBTemplates(str(truth.root), check_files=False)
    assert len(dataset) == len(truth.names)
    with pytest.raises(UserError, match=r'cannot read the folder .*gone.*data_root'):
        IJBTemplates(str(truth.root), data_prefix='gone')
    with pytest.raises(UserError, match=r'no folder .*test_dataloader\.dataset'):
        IJBTemplates(str(truth.root), meta_prefix='gone')
    # Nothing is read before it is needed.
    IJBTemplates(str(truth.root), meta_prefix='gone', lazy_init=True)


def test_images_elsewhere_and_another_name(shared):
    truth = shared['IJBC']
    dataset = IJBTemplates(
        str(truth.root / 'meta'),
        name='mine',
        data_prefix=str(truth.root / 'loose_crop'),
        meta_prefix='.',
        protocols=('1:1',),
    )
    entry = dataset.metainfo['test_sets']['mine']
    assert entry['protocol'].probes is None
    assert cv2.imread(dataset.get_data_info(5)['img_path']) is not None


def test_beside_other_sets(shared):
    first, second = (
        IJBTemplates(str(shared[subset].root), subset, pipeline=PIPELINE)
        for subset in GALLERIES
    )
    both = FaceTestSets([first, second])
    sets = both.metainfo['test_sets']
    assert sets['ijbc']['offset'] == len(first)
    item = both[len(first) + 2]
    assert item['sample_idx'] == len(first) + 2
    np.testing.assert_array_equal(item['inputs'], second[2]['inputs'])
    # Pairs are shared, however often they are told of.
    protocol = first.metainfo['test_sets']['ijbb']['protocol']
    assert sets['ijbb']['protocol'] is protocol
    with pytest.raises(UserError, match="'ijbb', 'ijbc' is no set of pairs"):
        FaceTestSets([first, second], combined='all')
