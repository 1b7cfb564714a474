"""Verify a trained face recogniser on the test sets of its config."""

import argparse
import os
import os.path as osp

import mmengine
from mmengine.config import DictAction

from mmhyperface.apis import build_runner, load_config, report_errors
from mmhyperface.errors import UserError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument(
        '--work-dir', help='where logs and pictures go; ./work_dirs/CONFIG if unset'
    )
    parser.add_argument('--out', help='write the figures to this .json or .pkl file')
    parser.add_argument(
        '--flip-fusion',
        choices=['sum', 'none', 'concat'],
        help='how an image and its mirror image are fused',
    )
    parser.add_argument(
        '--amp', action='store_true', help='test with automatic mixed precision'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override entries of the config: a.b=1 c.d=[x,y]',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none'
    )
    # torch.distributed.launch passes the one or the other spelling.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    args = parse_args()
    if not osp.isfile(args.checkpoint):
        raise UserError(f'there is no checkpoint {args.checkpoint}')
    if args.out and not args.out.endswith(('.json', '.pkl')):
        raise UserError(f'--out takes a .json or .pkl file, got {args.out}')
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.load_from = args.checkpoint
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        name = osp.splitext(osp.basename(args.config))[0]
        cfg.work_dir = osp.join('work_dirs', name)
    if cfg.model.type.endswith('FaceRecognizer'):
        # Embeddings need no class centres, which may be most of the model.
        cfg.model.head = None
        if args.flip_fusion:
            cfg.model.flip_fusion = args.flip_fusion
    if args.amp:
        cfg.test_cfg.fp16 = True
    runner = build_runner(cfg)
    figures = runner.test()
    if args.out and runner.rank == 0:
        mmengine.dump(figures, args.out)


if __name__ == '__main__':
    with report_errors():
        main()
