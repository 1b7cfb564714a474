"""Verification packs: read without running them, refused by what they ask for."""

import contextlib
import io
import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_files import picture, seed_of

from mmhyperface.datasets import FacePack
from mmhyperface.datasets.readers.safe_pickle import RefusedPickle, load_data
from mmhyperface.utils.errors import UserError

SAME = [True, False] * 10
IMAGES = [picture(i) for i in range(40)]


def pack_of(path, content: bytes, **options) -> FacePack:
    (path / 'lfw.bin').write_bytes(content)
    pipeline = [dict(type='LoadFace', size=16)]
    return FacePack('lfw.bin', data_root=str(path), pipeline=pipeline, **options)


def check(data: FacePack) -> None:
    assert [seed_of(item['img']) for item in data] == list(range(40))
    actual = data.metainfo['test_sets']['lfw']
    assert actual['index_a'].tolist() == list(range(0, 40, 2))
    assert actual['index_b'].tolist() == list(range(1, 40, 2))
    assert actual['same'].tolist() == SAME
    assert actual['identities'] is None
    assert actual['folds'].tolist() == [i // 2 for i in range(20)]


def arrays(images):
    return [np.frombuffer(image, np.uint8) for image in images]


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('images', [IMAGES, arrays(IMAGES)], ids=['bytes', 'arrays'])
@pytest.mark.parametrize(
    'same', [SAME, np.array(SAME), [np.bool_(s) for s in SAME], [int(s) for s in SAME]]
)
@pytest.mark.parametrize('outer', [tuple, list])
def test_whoever_wrote_it(tmp_path, protocol, images, same, outer):
    check(pack_of(tmp_path, pickle.dumps(outer([images, same]), protocol)))


@pytest.mark.parametrize('module', ['numpy.core', 'numpy._core'])
def test_either_name_of_numpys_core(tmp_path, module):
    content = pickle.dumps((arrays(IMAGES), SAME), 2)
    other = content.replace(b'numpy._core', module.encode())
    other = other.replace(b'numpy.core', module.encode())
    check(pack_of(tmp_path, other))


def python2_pack() -> bytes:
    """What Python 2's cPickle writes, protocol 2: text is BINSTRING."""
    out = io.BytesIO()
    out.write(b'\x80\x02' + b']q\x01(')
    for image in IMAGES:
        out.write(b'T' + struct.pack('<i', len(image)) + image)
    out.write(b'e]q\x02(')
    for same in SAME:
        out.write(b'\x88' if same else b'\x89')
    out.write(b'e\x86q\x03.')
    return out.getvalue()


def test_packs_of_python_2(tmp_path):
    content = python2_pack()
    assert pickle.loads(content, encoding='bytes') == (IMAGES, SAME)
    check(pack_of(tmp_path, content))


class Runs:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize(
    ('thing', 'name'),
    [
        (Runs(os.system, 'touch {}'), r'(posix|nt|os)\.system'),
        (Runs(eval, '1'), r'builtins\.eval|__builtin__\.eval'),
        (Runs(getattr, '', 'join'), r'getattr'),
        (Runs(np.load, 'x'), r'numpy(\.lib\.\w+)?\.load'),
        (os.system, 'system'),
        (np.array([Runs(os.system, 'x')], dtype=object), r"'O8?'|system"),
    ],
)
def test_what_would_run_is_refused_by_name(tmp_path, thing, name, protocol):
    content = pickle.dumps(([thing, *IMAGES[1:]], SAME), protocol)
    with pytest.raises(UserError, match=name):
        pack_of(tmp_path, content)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'no pickle'),
        (b'PK\3\4', 'no pickle'),
        (pickle.dumps((IMAGES, SAME))[:-300], 'damaged'),
        (pickle.dumps(IMAGES), 'expected a pair'),
        (pickle.dumps((IMAGES, SAME[1:])), '40 images and 19 pairs'),
        (pickle.dumps(([], [])), '0 images and 0 pairs'),
        (pickle.dumps((IMAGES, [2, *SAME[1:]])), 'pair 0 is neither 0 nor 1, but 2'),
        (pickle.dumps((IMAGES, [None, *SAME[1:]])), 'pair 0'),
        (pickle.dumps(([1, *IMAGES[1:]], SAME)), 'image 0 is int'),
        (pickle.dumps((IMAGES, [True] * 20)), 'pairs of the same person'),
        (pickle.dumps((dict(a=1), SAME)), 'are lists'),
        # Persistent ids, extensions, objects of instances.
        (b'Pabc\n.', 'no pickle'),
        (b'\x80\x02\x82\x01.', 'no pickle'),
        (b'(ios\nsystem\n.', r'os\.system'),
        (b'(cos\nsystem\no.', r'os\.system'),
        # A memo far away, a frame and bytes longer than the file.
        (b'\x80\x02Nr\xff\xff\xff\x7f.', 'expected a pair'),
        (b'\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x0fN.', 'expected a pair'),
        (b'\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0fN.', 'no pickle'),
        # State for what was imported.
        (b'cnumpy\ndtype\n}U\x01aNsb.', 'changes what it imports'),
    ],
)
def test_what_is_no_pack(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        pack_of(tmp_path, content)


def test_lists_of_lists_of_lists(tmp_path):
    """Small on the disk, endless for who follows all ways."""
    nested = [b'x']
    for _ in range(60):
        nested = [nested, nested]
    with pytest.raises(UserError, match='image 0 is list'):
        pack_of(tmp_path, pickle.dumps(([nested, *IMAGES[1:]], SAME)))


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(UserError, match=r'cannot read the pack .*No such file.*Set'):
        FacePack('none.bin', data_root=str(tmp_path))


def test_folds(tmp_path):
    content = pickle.dumps((IMAGES, SAME))
    actual = pack_of(tmp_path, content, folds=None, name='mine').metainfo['test_sets']
    assert actual['mine']['folds'] is None
    with pytest.raises(UserError, match='folds=21 of the 20 pairs'):
        pack_of(tmp_path, content, folds=21)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(range(6)),
    st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3), st.integers(0, 3))),
)
def test_any_damage_ends_in_data_or_an_error(protocol, changes):
    content = bytearray(
        pickle.dumps((arrays(IMAGES[:4]), np.array(SAME[:2])), protocol)
    )
    for share, new, gone in changes:
        at = int(share * len(content))
        content[at : at + gone] = new
    with contextlib.suppress(RefusedPickle):
        load_data(bytes(content), 'pack')
