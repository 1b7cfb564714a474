"""Verify a trained face recogniser on the test sets of its config."""

import math
from pathlib import Path

from mmhyperface.apis import build_runner
from mmhyperface.engine.launch import config_from, require_checkpoint, require_entries
from mmhyperface.engine.testing import is_recogniser, save_features
from mmhyperface.utils.command_line import argument_parser, report_errors
from mmhyperface.utils.errors import UserError, unwritable
from mmhyperface.utils.paths import require_file


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument('--out', help='write the figures to this .json or .pkl file')
    parser.add_argument(
        '--test-sets',
        nargs='+',
        default=[],
        metavar='NAME',
        help='test on these sets of configs/test_sets, or files like those, instead of '
        "the config's",
    )
    parser.add_argument(
        '--save-features',
        metavar='FILE.npy',
        help='write the embeddings of all images to this file, and what they are to '
        'FILE.json, for eval_features.py',
    )
    parser.add_argument(
        '--flip-fusion',
        choices=['sum', 'none', 'concat'],
        help='how an image and its mirror image are fused',
    )
    parser.add_argument(
        '--save-thresholds',
        action='store_true',
        help='write the threshold of each FAR into the checkpoint, where whoever '
        'verifies with it finds them, instead of those of an earlier examination',
    )
    args = parser.parse_args()

    import mmengine

    from mmhyperface.inference.loading import (
        examined_convention,
        refuse_other_networks,
        save_operating_points,
    )

    require_checkpoint(args.checkpoint)
    if args.out and not args.out.endswith(('.json', '.pkl')):
        raise UserError(f'--out takes a .json or .pkl file, got {args.out}')
    if args.out:
        require_file(args.out)
    if args.save_thresholds and '://' in args.checkpoint:
        raise UserError('--save-thresholds needs a checkpoint on this machine')
    if args.out and args.save_features:
        description = Path(args.save_features).with_suffix('.json')
        if Path(args.out).resolve() == description.resolve():
            raise UserError(
                f'--out {args.out} would replace what --save-features writes beside '
                f'{args.save_features}; give it another name'
            )

    cfg = config_from(args, args.test_sets)
    if not cfg.get('test_dataloader'):
        raise UserError(
            f'{args.config} has no test_dataloader; name what to test on: '
            '--test-sets lfw'
        )
    require_entries(cfg, ('model', 'test_evaluator'))
    cfg.load_from = args.checkpoint
    if is_recogniser(cfg) and args.flip_fusion:
        cfg.model.flip_fusion = args.flip_fusion
    if args.save_thresholds:
        convention = examined_convention(args.checkpoint, cfg)
    if is_recogniser(cfg):
        # Embeddings need no class centres, which may be most of the model.
        cfg.model.head = None
    if args.amp:
        cfg.test_cfg = {**(cfg.get('test_cfg') or {}), 'fp16': True}
    if args.save_features:
        save_features(cfg, args.save_features, args.checkpoint)
    runner = build_runner(cfg)
    refuse_other_networks(runner, cfg, args.checkpoint)
    figures = runner.test()
    if args.out and runner.rank == 0:
        if args.out.endswith('.json'):
            # JSON has no NaN: a rate that is not resolvable is null, as in reports.
            figures = {
                name: None if isinstance(value, float) and math.isnan(value) else value
                for name, value in figures.items()
            }
        try:
            mmengine.dump(figures, args.out)
        except OSError as error:
            raise unwritable(args.out, error) from None
    if args.save_thresholds and runner.rank == 0:
        save_operating_points(args.checkpoint, convention, runner.test_loop.evaluator)


if __name__ == '__main__':
    with report_errors():
        main()
