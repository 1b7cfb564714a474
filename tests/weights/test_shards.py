"""Class centres in one file per process: which files, and in which order."""

import pytest

from mmhyperface.utils.errors import UserError
from mmhyperface.weights.shards import find_shards


def files(folder, *names):
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    'name',
    [
        'softmax_fc_gpu_{}.pt',
        'rank_{}_softmax_weight.pt',
        'rank:{}_softmax_weight.pt',
        'checkpoint_gpu_{}.pt',
        'classifier_rank{}.pt',
    ],
)
def test_ranks_are_in_numeric_order(tmp_path, name):
    names = [name.format(rank) for rank in range(12)]
    # Momentum and the backbone are others.
    files(tmp_path, *names, 'model.pt', 'rank_0_softmax_weight_mom.pt', 'a.pt')
    for path in (tmp_path, tmp_path / names[3], tmp_path / names[11]):
        assert [file.name for file in find_shards(path)] == names


def test_another_name_is_the_whole(tmp_path):
    files(tmp_path, 'classifier.pt', 'softmax_fc_gpu_0.pt')
    assert find_shards(tmp_path / 'classifier.pt') == [tmp_path / 'classifier.pt']


def test_missing_ranks_are_named(tmp_path):
    files(tmp_path, *(f'softmax_fc_gpu_{rank}.pt' for rank in (1, 2, 4, 10)))
    with pytest.raises(
        UserError, match=r'rank 0, 3, 5, 6, 7, 8, 9, but softmax_fc_gpu_10'
    ):
        find_shards(tmp_path / 'softmax_fc_gpu_2.pt')


def test_no_files(tmp_path):
    with pytest.raises(UserError, match='no class centres: no file is called'):
        find_shards(tmp_path)
    with pytest.raises(UserError, match='no file or folder'):
        find_shards(tmp_path / 'softmax_fc_gpu_0.pt')


def test_files_of_two_kinds(tmp_path):
    files(tmp_path, 'softmax_fc_gpu_0.pt', 'checkpoint_gpu_0.pt')
    with pytest.raises(UserError, match=r'twice, softmax_fc_gpu_0\.pt and checkpoint'):
        find_shards(tmp_path)
    (file,) = find_shards(tmp_path / 'checkpoint_gpu_0.pt')
    assert file.name == 'checkpoint_gpu_0.pt'


def test_two_files_of_a_rank(tmp_path):
    files(tmp_path, 'rank:0_softmax_weight.pt', 'rank_0_softmax_weight.pt')
    with pytest.raises(UserError, match='both of rank 0'):
        find_shards(tmp_path)
