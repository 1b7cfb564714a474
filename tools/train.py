"""Train a face recogniser from a config."""

from mmhyperface.apis import build_runner
from mmhyperface.engine.launch import (
    LOADERS,
    config_from,
    count_classes,
    require_checkpoint,
    require_entries,
)
from mmhyperface.utils.command_line import argument_parser, report_errors
from mmhyperface.utils.errors import UserError


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='continue from this checkpoint, or from the latest of the work dir',
    )
    parser.add_argument(
        '--no-validate', action='store_true', help='do not verify during training'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the global batch',
    )
    parser.add_argument(
        '--no-pin-memory', action='store_true', help='do not pin the loaders memory'
    )
    parser.add_argument(
        '--no-persistent-workers',
        action='store_true',
        help='let the loaders start their workers anew for each pass',
    )
    args = parser.parse_args()
    cfg = config_from(args)
    require_entries(cfg, ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'))

    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.resume:
        cfg.resume = True
        cfg.load_from = None
        if args.resume != 'auto':
            require_checkpoint(args.resume)
            cfg.load_from = args.resume
    if args.auto_scale_lr:
        if not cfg.get('auto_scale_lr'):
            raise UserError(
                '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the '
                'config: the global batch that its learning rate is for'
            )
        cfg.auto_scale_lr.enable = True
    for name in LOADERS:
        loader = cfg.get(name)
        if loader and args.no_pin_memory:
            loader.pin_memory = False
        if loader and args.no_persistent_workers:
            loader.persistent_workers = False
    count_classes(cfg)
    build_runner(cfg).train()


if __name__ == '__main__':
    with report_errors():
        main()
