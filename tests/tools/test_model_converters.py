"""Weights there and back again, by the tools as a user calls them."""

import pytest
import torch
from peer_networks import ir_state, iresnet_state
from runs import small_config

from mmhyperface.apis import build_runner, get_model
from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError

CLASSES, DIM = 11, 16


def plain_sfnet() -> dict:
    """OpenSphere's SFNet-4 without batch norm, of 8 channels, for 32 x 32 pixels."""
    generator = torch.Generator().manual_seed(0)
    shapes = {'fc.weight': (DIM, 8 * 4), 'fc.bias': (DIM,)}
    for stage, inp in enumerate((3, 8, 8, 8), 1):
        shapes[f'layer{stage}.0.conv1.weight'] = (8, inp, 3, 3)
        shapes[f'layer{stage}.0.conv1.bias'] = (8,)
    return {
        key: torch.randn(shape, generator=generator) for key, shape in shapes.items()
    }


@pytest.fixture
def opensphere(tmp_path) -> dict:
    head = {'w': torch.randn(CLASSES, DIM), 'b': torch.tensor([-2.0])}
    model = {'backbone': plain_sfnet(), 'head': head}
    torch.save(model, tmp_path / 'model_7.pth')
    return model


def test_a_converted_checkpoint_is_loaded_strictly(tmp_path, call_main, opensphere):
    # The config's head is that of SphereFace2, which has a bias.
    ours = tmp_path / 'new' / 'sfnet4.pth'
    message = call_main('opensphere_to_mmhyperface', tmp_path / 'model_7.pth', ours)
    assert 'SFNet-4 (opensphere), 32 x 32 pixels' in message
    assert "'widths': [8, 8, 8, 8]" in message
    runner = build_runner(small_config(tmp_path / 'run', load_from=str(ours)))
    runner.load_checkpoint(str(ours), strict=True)
    state = runner.model.state_dict()
    assert torch.equal(state['head.weight'], opensphere['head']['w'])
    assert torch.equal(state['head.loss_module.bias'], opensphere['head']['b'])
    for key, value in opensphere['backbone'].items():
        assert torch.equal(state[f'backbone.{key}'], value)
    meta = read(ours)['meta']
    assert meta['converted_from'] == {'peer': 'OpenSphere', 'files': ['model_7.pth']}
    assert meta['backbone']['depth'] == 4
    convention = get_model(None, ours).convention
    assert convention.channel_order == 'RGB'
    assert convention.input_size == (32, 32)
    assert convention.mean == convention.std == (127.5, 127.5, 127.5)

    back = tmp_path / 'back'
    message = call_main('mmhyperface_to_opensphere', ours, back, '--revision', '2022')
    assert message.splitlines()[-2:] == ['  backbone_0.pth', '  head_0.pth']
    again = tmp_path / 'again.pth'
    call_main(
        'opensphere_to_mmhyperface',
        back / 'backbone_0.pth',
        again,
        *('--head', back / 'head_0.pth', '--variant', 'opensphere'),
    )
    first, second = (read(path)['state_dict'] for path in (ours, again))
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_files_are_not_replaced_unasked(tmp_path, call_main, opensphere):
    ours = tmp_path / 'ours.pth'
    call_main(
        'opensphere_to_mmhyperface', tmp_path / 'model_7.pth', ours, '--drop-head'
    )
    before = ours.read_bytes()
    with pytest.raises(UserError, match='--overwrite'):
        call_main('opensphere_to_mmhyperface', tmp_path / 'model_7.pth', ours)
    assert ours.read_bytes() == before
    arguments = (tmp_path / 'model_7.pth', ours, '--overwrite')
    call_main('opensphere_to_mmhyperface', *arguments)
    assert 'head.weight' in read(ours)['state_dict']


def test_errors_tell_the_file_and_leave_nothing(tmp_path, call_main, opensphere):
    del opensphere['backbone']['fc.bias']
    torch.save(opensphere, tmp_path / 'model_7.pth')
    with pytest.raises(UserError, match=r'model_7\.pth: these weights do not fit'):
        call_main(
            'opensphere_to_mmhyperface', tmp_path / 'model_7.pth', tmp_path / 'a.pth'
        )
    assert [path.name for path in tmp_path.iterdir()] == ['model_7.pth']


# ---- the others, with one network of each family

BLOCKS = (2, 2, 2, 2)  # of depth 18


def written(path, content) -> object:
    torch.save(content, path)
    return path


def read(path) -> dict:
    return torch.load(path, weights_only=True)


def test_insightface_there_and_back(tmp_path, call_main):
    run, rows = tmp_path / 'run', torch.randn(13, DIM)
    run.mkdir()
    state = iresnet_state(BLOCKS, 1, DIM)
    torch.save(state, run / 'model.pt')
    # 11 ranks: gpu_10 comes after gpu_9.
    for rank, part in enumerate(rows.split([2, 2, *[1] * 9])):
        torch.save({'weight': part}, run / f'softmax_fc_gpu_{rank}.pt')
    ours = tmp_path / 'ours.pth'
    message = call_main(
        'insightface_to_mmhyperface', run / 'model.pt', ours, '--classifier', run
    )
    assert 'IResNet-18, 16 x 16 pixels' in message
    assert '13 class centres' in message
    assert torch.equal(read(ours)['state_dict']['head.weight'], rows)
    call_main('mmhyperface_to_insightface', ours, tmp_path / 'back', '--world-size', 2)
    files = sorted(path.name for path in (tmp_path / 'back').iterdir())
    assert files == ['model.pt', 'softmax_fc_gpu_0.pt', 'softmax_fc_gpu_1.pt']
    back = read(tmp_path / 'back' / 'model.pt')
    assert all(torch.equal(back[key], value) for key, value in state.items())
    shard = tmp_path / 'back' / 'softmax_fc_gpu_1.pt'
    assert torch.equal(read(shard)['weight'], rows[7:])
    # Not the memory of all the rows, which it is a part of.
    assert shard.stat().st_size < 2500

    (run / 'softmax_fc_gpu_3.pt').unlink()
    with pytest.raises(UserError, match='rank 3, but softmax_fc_gpu_10'):
        call_main(
            'insightface_to_mmhyperface',
            *(run / 'model.pt', ours, '--classifier', run, '--overwrite'),
        )


def test_checkpoints_of_all_processes_hold_the_head(tmp_path, call_main):
    state, rows = iresnet_state(BLOCKS, 1, DIM), torch.randn(5, DIM)
    for rank, part in enumerate(rows.split(3)):
        content = {
            'epoch': 3,
            # The same on all ranks; read from that which is named.
            'state_dict_backbone': state if rank == 1 else {},
            'state_dict_softmax_fc': {'weight': part},
            'state_optimizer': {'state': {}, 'param_groups': []},
        }
        torch.save(content, tmp_path / f'checkpoint_gpu_{rank}.pt')
    tool, source = 'insightface_to_mmhyperface', tmp_path / 'checkpoint_gpu_1.pt'
    call_main(tool, source, tmp_path / 'ours.pth', '--num-classes', 5)
    actual = read(tmp_path / 'ours.pth')
    assert torch.equal(actual['state_dict']['head.weight'], rows)
    assert actual['meta']['converted_from']['files'][1:] == [
        'checkpoint_gpu_0.pt',
        'checkpoint_gpu_1.pt',
    ]
    assert 'no class' in call_main(tool, source, tmp_path / 'bare.pth', '--drop-head')


def test_cvlface_there_and_back(tmp_path, call_main):
    state = {f'net.{k}': v for k, v in iresnet_state(BLOCKS, 1, DIM).items()}
    source = written(tmp_path / 'model.pt', state)
    ours, back = tmp_path / 'ours.pth', tmp_path / 'back'
    call_main('cvlface_to_mmhyperface', source, ours, '--channels', 'bgr')
    first = read(ours)['state_dict']['backbone.conv1.weight']
    assert torch.equal(first, state['net.conv1.weight'][:, [2, 1, 0]])
    call_main('mmhyperface_to_cvlface', ours, back, '--channels', 'bgr')
    returned = read(back / 'model.pt')
    assert all(torch.equal(returned[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ('origin', 'peer', 'factor'),
    [('sface', 'SFace', 9.9609375), ('evolve', 'face.evoLVe', 1)],
)
def test_sface_there_and_back(tmp_path, call_main, origin, peer, factor):
    state, rows = ir_state(BLOCKS, 1, DIM, tface=False), torch.randn(CLASSES, DIM)
    source = written(tmp_path / 'Backbone_IR_18.pth', state)
    head = written(tmp_path / 'Head.pth', {'weight': rows})
    ours, back = tmp_path / 'ours.pth', tmp_path / 'back'
    call_main('sface_to_mmhyperface', source, ours, '--head', head, '--origin', origin)
    name = 'input_layer.0.weight'
    actual = read(ours)
    assert torch.equal(actual['state_dict'][f'backbone.{name}'], state[name] * factor)
    assert actual['meta']['converted_from']['peer'] == peer
    call_main('mmhyperface_to_sface', ours, back, '--origin', origin)
    returned = read(back / 'Backbone_IR_18_checkpoint.pth')
    torch.testing.assert_close(returned[name], state[name])
    assert torch.equal(read(back / 'Head_SFaceLoss_checkpoint.pth')['weight'], rows)
    with pytest.raises(UserError, match='AdaFace has no IR-18'):
        call_main('mmhyperface_to_adaface', ours, tmp_path / 'other')
    assert not (tmp_path / 'other').exists()


def test_adaface_there_and_back(tmp_path, call_main):
    tface = ir_state(BLOCKS, 1, DIM, tface=True)
    state = {f'model.{key}': value for key, value in tface.items()}
    state['head.kernel'] = torch.randn(DIM, CLASSES)
    source = written(tmp_path / 'last.ckpt', {'epoch': 25, 'state_dict': state})
    message = call_main('adaface_to_mmhyperface', source, tmp_path / 'ours.pth')
    assert 'IR-18 (tface)' in message
    assert '11 class centres' in message
    call_main('mmhyperface_to_adaface', tmp_path / 'ours.pth', tmp_path / 'back')
    returned = read(tmp_path / 'back' / 'adaface_ir18.ckpt')['state_dict']
    assert all(torch.equal(returned[key], value) for key, value in state.items())


def test_publish(tmp_path, call_main, opensphere):
    ours = tmp_path / 'ours.pth'
    call_main('opensphere_to_mmhyperface', tmp_path / 'model_7.pth', ours)
    message = call_main('publish_model', ours, tmp_path / 'zoo' / 'sfnet4.pth')
    (file,) = (tmp_path / 'zoo').iterdir()
    assert message.startswith(f'{file}: ')


def test_one_message_and_no_traceback(tmp_path, call_main, capsys):
    source = tmp_path / 'model.pt'
    source.write_bytes(b'version https://git-lfs.github.com/spec/v1\n')
    with pytest.raises(SystemExit), report_errors():
        call_main('insightface_to_mmhyperface', source, tmp_path / 'a.pth')
    assert capsys.readouterr().err == (
        f'error: {source} is a pointer of git-lfs, not the file itself; run '
        '`git lfs pull`\n'
    )


def test_no_checkouts(tmp_path, call_main):
    with pytest.raises(UserError, match='has none of insightface, opensphere'):
        call_main('check_with_peers', '--peer-dir', tmp_path)
