"""Centres go to the people they are of, also of several training sets together."""

import pytest
import torch
from mmengine.dataset import BaseDataset
from runs import log_of, small_config, train

from mmhyperface.datasets.wrappers import FaceSets
from mmhyperface.engine.identities import Identities, mapped, places
from mmhyperface.utils.errors import UserError


class Named(BaseDataset):
    def __init__(self, *names, count=0):
        classes = {'classes': names} if names else {}
        super().__init__(
            metainfo=classes | {'num_classes': len(names) or count}, lazy_init=True
        )

    def __len__(self):
        return 1

    def full_init(self):
        pass


def people(*sets):
    """Of one training set, or of several together, names or a number of each."""
    built = [Named(count=x) if isinstance(x, int) else Named(*x) for x in sets]
    meta = (FaceSets(built) if len(built) > 1 else built[0]).metainfo
    return Identities.of('here', meta, meta['num_classes'])


@pytest.mark.parametrize(
    ('here', 'there', 'origin'),
    [
        # People are added to a trained network.
        ((('a', 'b'), ('c',)), (('a', 'b'),), [0, 1, -1]),
        ((('b', 'a', 'd'), ('a', 'c')), (('a', 'b', 'd'),), [1, 0, 2, -1, -1]),
        # They stand first, or one more set follows, or one goes again.
        ((('a', 'c'), ('b', 'a')), (('a', 'b'),), [-1, -1, 1, 0]),
        ((('a',), ('a', 'b'), ('c',)), (('a',), ('a', 'b')), [0, 1, 2, -1]),
        ((('a', 'b'),), (('c',), ('b', 'a')), [2, 1]),
        # The number is that of another set now.
        ((('a', 'b'), ('c', 'd')), (('d', 'c'), ('b', 'a')), [3, 2, 1, 0]),
        # Without names, by the number of people of a set alone.
        ((3, 2), (3,), [0, 1, 2, -1, -1]),
        ((2, ('a',)), (2,), [0, 1, -1]),
        ((1, 2, 4), (2, 1), [2, 0, 1, -1, -1, -1, -1]),
    ],
)
def test_each_set_is_taken_for_the_one_it_was(here, there, origin):
    assert mapped(people(*here), people(*there))[0].tolist() == origin


@pytest.mark.parametrize(
    ('here', 'there', 'message'),
    [
        ((('a', 'b'), ('b', 'a')), (('a', 'b'),), 'sets 0 and 1 of here have as many'),
        ((('a', 'b'),), (('a',), ('b',)), 'sets 0 and 1 of here have as many'),
        ((2, 2), (2,), 'sets 0 and 1'),
        ((('a', 'b'), ('c',)), (('d',),), 'no identity of the training set .*=drop'),
        ((('a', 'b'),), (2,), 'needs the names of 2'),
        ((2,), (2,), 'needs the names of 2'),
        ((('a', 'a'), ('c',)), (('a',),), "two identities of the name 'a'"),
    ],
)
def test_what_cannot_be_told_is_not_guessed(here, there, message):
    with pytest.raises(UserError, match=message):
        mapped(people(*here), people(*there))


def test_who_has_the_name_of_another_is_told():
    _, how = mapped(people(('a', 'b'), ('b', 'c')), people(('a', 'b')))
    assert how == ' by name (1 more have the name of one, but are in another set)'


def test_the_same_people():
    here, there = people(('a', 'b', 'c')), people(('c', 'a', 'b'))
    assert places(here, there).tolist() == [1, 2, 0]
    assert places(here, people(('a', 'x', 'c'))).tolist() == [0, -1, 2]
    for other in (here, people(3)):
        assert places(here, other) is places(other, here) is None


def test_people_are_added_to_a_trained_network(tmp_path):
    faces = dict(
        type='SyntheticFaces',
        images_per_identity=4,
        image_size=32,
        pipeline=[dict(type='PackInputs')],
    )
    old = {
        **faces,
        'num_identities': 11,
        'metainfo': dict(classes=tuple('abcdefghijk')),
    }
    new = {**faces, 'num_identities': 3, 'metainfo': dict(classes=tuple('xay'))}
    options = {
        'train_cfg.max_iters': 1,
        'optim_wrapper.optimizer.lr': 0.0,
        'optim_wrapper.optimizer.weight_decay': 0.0,
    }
    cfg = small_config(tmp_path / 'old', **options)
    cfg.train_dataloader.dataset = old
    before = train(cfg).model.head.weight
    cfg = small_config(tmp_path / 'new', **options, **{'model.head.num_classes': 14})
    cfg.train_dataloader.dataset = dict(type='FaceSets', datasets=[old, new])
    cfg.load_from, cfg.load_centres = str(tmp_path / 'old' / 'iter_1.pth'), 'map'
    after = train(cfg).model.head.weight
    assert torch.equal(after[:11], before)
    assert not (after[11:, None] == before).all(2).any()
    log = log_of(tmp_path / 'new')
    assert 'kept 11 of 14 identities by name (1 more have the name' in log
