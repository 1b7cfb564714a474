"""Verify a trained face recogniser on the test sets of its config."""

import mmengine

from mmhyperface.apis import (
    argument_parser,
    build_runner,
    config_from,
    report_errors,
    require_checkpoint,
)
from mmhyperface.errors import UserError


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument('--out', help='write the figures to this .json or .pkl file')
    parser.add_argument(
        '--flip-fusion',
        choices=['sum', 'none', 'concat'],
        help='how an image and its mirror image are fused',
    )
    args = parser.parse_args()
    require_checkpoint(args.checkpoint)
    if args.out and not args.out.endswith(('.json', '.pkl')):
        raise UserError(f'--out takes a .json or .pkl file, got {args.out}')

    cfg = config_from(args)
    if not cfg.get('test_dataloader'):
        raise UserError(f'{args.config} has no test_dataloader')
    cfg.load_from = args.checkpoint
    # The type is a name, or the class itself in a new-style config.
    model_type = getattr(cfg.model.type, '__name__', cfg.model.type)
    if model_type.rpartition('.')[2] == 'FaceRecognizer':
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
