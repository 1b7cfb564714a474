"""The benchmarks measure what they say, at sizes of seconds; no figure is judged."""

import argparse
import json
import sys
import time
from importlib import import_module

import classifier_peers as peers
import classifier_step as step
import examination
import gpu
import null_gpu_steps
import numpy as np
import pytest
import torch
from runs import ROOT, call

from mmhyperface.utils.errors import UserError


def run(script: str, *arguments: object, status: int = 0) -> str:
    path = ROOT / 'tools' / 'benchmarks' / script
    done = call('python', path, *arguments, status=status)
    assert 'Traceback' not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize('momentum', [0.0, 0.9])
@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
@pytest.mark.parametrize('folded', [False, True])
def test_the_floor_takes_sgd_steps(momentum, dtype, folded):
    problem = step.Problem(50, 6, 8, momentum, 'cpu', dtype, lr=0.5)
    floor = step.Floor(problem, folded)
    w = torch.nn.Parameter(floor.w.clone())
    optimizer = torch.optim.SGD([w], lr=0.5, momentum=momentum)
    for _ in range(3):
        floor()
        w.grad = (floor.x @ w.detach().T).T @ floor.x
        optimizer.step()
    tolerance = 1e-6 if dtype is None else 3e-3
    torch.testing.assert_close(floor.w, w.detach(), atol=tolerance, rtol=0)


def test_a_ratio_is_of_medians_and_its_quartiles_of_pairs():
    row = step.Row('x', 9, [3.0, 9.0, 4.0], [1.0, 2.0, 4.0], 2.0, None)
    assert row.ratio == 2
    assert row.computed_ratio == 2
    assert row.quartiles == [2.0, 3.75]


def test_each_step_is_paired_with_one_of_the_floor(monkeypatch):
    taken = []
    monkeypatch.setattr(
        step, 'clock', lambda problem, of: taken.append(type(of).__name__) or 1.0
    )
    monkeypatch.setattr(step, 'computed_floor', lambda problem: 1.0)
    options = (
        '--losses SFace --engines dense blocked --dim 8 --batch-size 4 '
        '--sample-rate 0.5 --repeats 2 --no-memory'
    )
    monkeypatch.setattr(sys, 'argv', ['x', *options.split()])
    rows = step.measure(step.parse_args(), 30)
    assert [row.name for row in rows] == [
        'floor',
        'folded floor',
        'SFace dense',
        'SFace dense, rate 0.5',
        'SFace blocked',
        'SFace blocked, fused update',
        'SFace blocked, rate 0.5',
        'SFace blocked, rate 0.5, fused update',
    ]
    assert taken == [*['Floor'] * 8, *['Floor', 'function'] * 12]


@pytest.mark.slow
def test_classifier_step_knows_what_the_floor_keeps(tmp_path):
    out = tmp_path / 'out.json'
    classes, dim = 40_000, 256
    text = run(
        'classifier_step.py',
        *('--classes', classes, '--dim', dim, '--batch-size', 8, '--repeats', 1),
        *('--only', 'floor', '--json', out, '--markdown'),
    )
    assert '40,000 classes' in text
    assert 'official heads were not measured' in text
    report = json.loads(out.read_text())
    assert report['threads'] == 1
    floor, folded = report['rows']
    weight = 4 * classes * dim / 1e6
    # W, and its gradient or not; pages of libraries and small buffers besides. The
    # kernel counts a process's pages in batches.
    assert -1 < floor['peak'] - 2 * weight < 15
    assert -1 < folded['peak'] - weight < 15
    assert floor['ratio'] > 0
    assert floor['computed_floor'] > 0


SPHEREFACE = """
from torch import nn
from .common import get

class SphereFace(nn.Module):
    def __init__(self, feat_dim, num_class, s, m):
        super().__init__()
        self.w = nn.Linear(feat_dim, num_class)

    def forward(self, x, y):
        return nn.functional.cross_entropy(get() * self.w(x), y)
"""
PARTIAL_FC = """
import torch
from torch import distributed, nn

class PartialFC_V2(nn.Module):
    def __init__(self, margin, dim, classes, rate, fp16):
        super().__init__()
        assert distributed.get_world_size() == 1
        self.w = nn.Parameter(torch.ones(classes, dim))
        self.margin = margin

    def forward(self, x, y):
        logits = x.cuda() @ self.w.T
        return nn.functional.cross_entropy(self.margin(logits, y), y)
"""
LOSSES = """
class CombinedMarginLoss:
    def __init__(self, s, m1, m2, m3):
        self.s = s

    def __call__(self, logits, labels):
        return self.s * logits
"""


def test_peers_are_measured_where_they_are_and_told_where_not(tmp_path):
    # An __init__ that needs what is not there does no harm.
    head = tmp_path / 'opensphere' / 'model' / 'head'
    head.mkdir(parents=True)
    (head / '__init__.py').write_text('import no_such_module')
    (head / 'common.py').write_text('def get(): return 1.0')
    (head / 'sphereface.py').write_text(SPHEREFACE)
    insightface = tmp_path / 'insightface' / 'recognition' / 'arcface_torch'
    insightface.mkdir(parents=True)
    (insightface / 'partial_fc_v2.py').write_text(PARTIAL_FC)
    (insightface / 'losses.py').write_text(LOSSES)
    text = run(
        'classifier_step.py',
        *('--classes', 20, '--dim', 4, '--batch-size', 3, '--repeats', 1),
        *('--only', '^floor|OpenSphere|SFace S|insightface', '--no-memory'),
        *('--peer-dir', tmp_path, '--json', tmp_path / 'out.json'),
    )
    rows = json.loads((tmp_path / 'out.json').read_text())['rows']
    assert [row['name'] for row in rows] == [
        'floor',
        'OpenSphere SphereFace',
        'insightface PartialFC ArcFace, rate 1',
        'insightface PartialFC ArcFace, rate 0.1',
    ]
    assert 'OpenSphere SphereFace2: left out' in text
    assert 'SFace SFaceLoss: left out' in text
    assert '`.cuda()` is the identity' in text


def test_cuda_is_the_identity_for_partial_fc_only():
    before = torch.Tensor.cuda
    x = torch.ones(2)
    with peers._cuda_is_identity():
        assert x.cuda() is x
    assert torch.Tensor.cuda is before


def test_a_missing_peer_says_where_it_was_looked_for(tmp_path):
    peer = peers.peers([])['SFace SFaceLoss']
    with pytest.raises(UserError, match=r'no head/metrics.py below .*SFace'):
        peers.load(tmp_path, peer)
    with pytest.raises(UserError, match='clone the repository there'):
        examination.contenders('pairs', tmp_path)


@pytest.mark.slow
def test_exchanged_bytes(tmp_path):
    classes, dim, batch = 301, 16, 4
    out = tmp_path / 'out.json'
    run(
        'exchanged_bytes.py',
        *('--classes', classes, '--dim', dim, '--batch-size', batch),
        *('--losses', 'SphereFace2', 'ArcFace', '--json', out),
    )
    calls = json.loads(out.read_text())['calls']

    def payload(head: str, purpose: str) -> int:
        return sum(c['payload'] for c in calls[head] if c['purpose'] == purpose)

    for loss in ('SphereFace2', 'ArcFace'):
        rows = payload(f'{loss}, replicated', 'gradient of the centres')
        # Whatever else DDP put into that bucket is no more than the layer and b.
        assert 4 * classes * dim <= rows <= 4 * (classes * dim + dim + 1)
        assert not payload(f'{loss}, split', 'gradient of the centres')
        assert payload(f'{loss}, split', 'features') == 4 * batch * dim
        # Of the global batch, on gloo.
        expected = 2 * 4 * batch * dim
        assert payload(f'{loss}, split', 'gradient of the features') == expected


@pytest.mark.slow
def test_million_identities_at_a_smaller_number(tmp_path):
    out = tmp_path / 'out.json'
    run(
        'million_identities.py',
        *('--identities', 70, '--iterations', 4, '--batch-size', 4, '--json', out),
        '--fused-update',
    )
    ranks = json.loads(out.read_text())['ranks']
    assert len(ranks) == 2
    for rank in ranks:
        assert rank['images_per_second'] > 0
        assert 0 < rank['start_mb'] < rank['peak_mb']
        assert rank['peak_mb_of_a_worker'] > 0
    # What another process meets is one message.
    text = run(
        'million_identities.py',
        *('--identities', 1, '--iterations', 4, '--batch-size', 2),
        status=1,
    )
    (line,) = (line for line in text.splitlines() if line.startswith('error'))
    assert 'num_classes' in line


def test_reading_beside_a_peer(tmp_path):
    """A data set in the place of insightface's, which uses MXNet as that does."""
    folder = tmp_path / 'insightface' / 'arcface_torch'
    folder.mkdir(parents=True)
    (folder / 'dataset.py').write_text(
        'import mxnet as mx\n'
        'from utils.utils_distributed_sampler import DistributedSampler\n'
        'class MXFaceDataset:\n'
        '    def __init__(self, root_dir, local_rank):\n'
        '        paths = root_dir + "/train.idx", root_dir + "/train.rec"\n'
        '        self.file = mx.recordio.MXIndexedRecordIO(*paths, "r")\n'
        '        header, _ = mx.recordio.unpack(self.file.read_idx(0))\n'
        '        self.count = int(header.label[0]) - 1\n'
        '    def __len__(self):\n'
        '        return self.count\n'
        '    def __getitem__(self, i):\n'
        '        header, image = mx.recordio.unpack(self.file.read_idx(i + 1))\n'
        '        return mx.image.imdecode(image).asnumpy(), header.label\n'
    )
    out = tmp_path / 'out.json'
    text = run(
        'data_loading.py',
        *('--images', 24, '--batch-size', 8, '--workers', 1, '--repeats', 2),
        *('--peer-dir', tmp_path, '--json', out),
    )
    rates = json.loads(out.read_text())['rates']
    assert set(rates) == {
        *('decoder', 'mmhyperface', 'mmhyperface, normalised'),
        *("mmpretrain's steps", 'insightface'),
    }
    assert all(len(turns) == 2 and min(turns) > 0 for turns in rates.values())
    assert 'replaced by one over OpenCV' in text


def test_memory_of_a_long_index(tmp_path):
    out = tmp_path / 'out.json'
    run(
        'loader_memory.py',
        *('--images', 40_000, '--workers', 1, '--share', 0.2, '--json', out),
    )
    memory = json.loads(out.read_text())['found']
    assert memory[-1][0] == pytest.approx(0.2, abs=0.01)
    assert all(main > 0 and workers > 0 for _, main, workers in memory)


@pytest.mark.parametrize(
    ('command', 'message'),
    [
        ('classifier_step --classes 1', '--classes'),
        ('exchanged_bytes --processes 1', 'one process exchanges nothing'),
        ('million_identities --iterations 2', 'set --iterations higher'),
        ('data_loading --workers 0', '--workers must be at least 1'),
        ('loader_memory --share 0', '--share is above 0'),
        ('million_identities --batch-size 9 --processes 2', '--batch-size'),
    ],
)
def test_arguments_that_cannot_be(monkeypatch, command, message):
    monkeypatch.setattr(sys, 'argv', command.split())
    with pytest.raises(UserError, match=message):
        import_module(sys.argv[0]).parse_args()


def test_the_floor_of_an_examination_computes_the_same_figures():
    data = examination.ijb(0.004, 16)
    ours, floor = examination.ours_ijb(data), examination.floor_ijb(data)
    compared = [name for name in floor if not np.isnan(ours[name])]
    assert len(compared) >= 3
    for name in compared:
        assert ours[name] == pytest.approx(floor[name], abs=1e-6)
    pairs = examination.pair_list(0.2, 16)
    accuracy = examination.ours_pairs(pairs)['accuracy']
    assert examination.floor_pairs(pairs)['accuracy'] == pytest.approx(
        accuracy, abs=0.01
    )


def test_examination_tells_time_memory_and_figures(tmp_path):
    out = tmp_path / 'out.json'
    printed = run(
        *('examination.py', '--scale', 0.004, '--dim', 16, '--repeats', 2),
        *('--json', out),
    )
    assert 'rank-1@1000' in printed
    content = json.loads(out.read_text())
    for part in ('ijb', 'pairs', 'megaface'):
        ours = content[part]['ways']['mmhyperface']
        assert ours['figures']
        assert ours['megabytes'] > 0
    assert len(content['ijb']['ways']['floor']['seconds']) == 2


HEAD = dict(name='floor', times=[1.0, 3.0, 2.0], peak=5000)
STEP = {
    'setting': '8 x 64, 3 steps',
    **{'images/s': 9876.5, 'ms': 51.84, 'allocated': 4.7e9, 'reserved': 5.2e9},
}


def test_the_gpu_benchmark_has_a_row_for_each_part(monkeypatch, tmp_path, capsys):
    """Whatever becomes of them: some fail, one takes too long, one says little."""

    def parts(args, folder):
        def wrote(name, figures, then):
            path = str(folder / f'{name}.json')
            text = f'open({path!r}, "w").write({json.dumps(figures)!r})'
            return ['-c', f'import os, time; {text}; {then}']

        few = 'classifier, 85,742'
        return {
            'CUDA tests': ['-c', 'print("== 1 failed, 2 passed =="); exit(1)'],
            'eager': wrote('eager', STEP | {'syncs': 0.25}, ''),
            few: wrote(few, dict(rows=[HEAD]), 'time.sleep(99)'),
            'classifier, 360,232': ['-c', 'print("ArcFace: left out, no memory")'],
            'classifier, 2,059,906': ['-c', 'print("x")'],
            'compiled': wrote('compiled', STEP, 'os.kill(os.getpid(), 11)'),
        }

    out = tmp_path / 'out.json'
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 8)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'a GPU')
    monkeypatch.setattr(gpu, 'commands', parts)
    monkeypatch.setattr(sys, 'argv', ['gpu.py', '--seconds', '127', '--json', str(out)])
    gpu.main()
    said = json.loads(out.read_text())
    assert said['device'] == '8 x a GPU'
    assert said['parts']['eager']['syncs'] == 0.25
    rows = [cells for cells in said['rows'] if 'published' not in cells[0]]
    assert rows == [
        gpu.row('CUDA tests: failed, status 1: 1 failed, 2 passed'),
        ['8 x 64, 3 steps, eager', '9,876', '51.8', '4.70 / 5.20', '0.25'],
        gpu.row('insightface: not measured without --peer-dir'),
        gpu.row('classifier, 85,742: floor', '-', '2000.00', '5.00'),
        gpu.row('classifier, 85,742: not finished in its 10 s'),
        gpu.row('classifier, 360,232: ArcFace: left out, no memory'),
        gpu.row('classifier, 2,059,906: x'),
        ['8 x 64, 3 steps, compiled', '9,876', '51.8', '4.70 / 5.20', '-'],
        gpu.row('compiled: failed, status -11: '),
    ]
    printed = capsys.readouterr().out
    assert all(cells[0][:20] in printed for cells in rows)
    assert '4,681' in printed
    assert gpu.measured('x', [], out, 0.5)[0] == [
        gpu.row('x: not reached, no time was left')
    ]


def test_every_part_has_its_command(tmp_path):
    args = argparse.Namespace(peer_dir=tmp_path, gpus=8, batch_size=64, steps=100)
    assert set(gpu.commands(args, tmp_path)) == set(gpu.BUDGET)


def test_what_takes_too_long_ends_with_its_children(tmp_path):
    late = tmp_path / 'late'
    script = f'import os; os.system("(sleep 3; touch {late}) & wait")'
    assert gpu.run(['-c', script], 1) == (None, '')
    time.sleep(3)
    assert not late.exists()
    assert gpu.run(['-c', 'print("done")'], 30) == (0, 'done\n')


def test_the_gpu_benchmark_needs_a_gpu():
    if torch.cuda.is_available():
        pytest.skip('there is one')
    (line,) = run('gpu.py', status=1).splitlines()
    assert line.startswith('error: torch')
    assert 'sees no GPU' in line


def test_a_roofline_is_the_larger_of_traffic_and_products():
    mode = null_gpu_steps.roofline_mode()
    mode.add('mm', 0, 17 * 10**12, half=False)
    mode.add('add_', 16 * 10**11, 1, half=False)
    assert mode.seconds['A100'] == pytest.approx(2, abs=1e-4)
