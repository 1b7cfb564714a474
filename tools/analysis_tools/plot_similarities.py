"""Plot how alike pairs are to a network, and how far images are from class centres.

    python tools/analysis_tools/plot_similarities.py \
        configs/sphereface2_quickstart.py work_dirs/a/iter_800.pth --out picture.png

The pairs are those of the config's test sets. A file of features that `tools/test.py
--save-features` or `tools/inference/embed.py` wrote may stand in the place of a
checkpoint.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.config import Config

from mmhyperface.engine.launch import load_config, require_checkpoint
from mmhyperface.utils.command_line import add_overrides, report_errors
from mmhyperface.utils.errors import UserError

if TYPE_CHECKING:
    from mmengine.runner import Runner

    from mmhyperface.evaluation.protocols import VerificationResult
    from mmhyperface.visualization import CentreAngles


FEATURES = ('.npy', '.npz', '.parquet')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config', help='path of the config')
    add('sources', nargs='+', metavar='CHECKPOINT', help='or a file of features')
    add('--out', default='similarities.png', help='picture to write')
    add('--names', nargs='+', help='of the rows; by default of the folders')
    add(
        '--train-images',
        type=int,
        default=1000,
        metavar='N',
        help='so many images of the training set, chosen at random, are compared with '
        'the class centres; 0: none (default: %(default)s)',
    )
    add('--seed', type=int, default=0, help='of that choice')
    add(
        '--test-sets',
        nargs='+',
        default=[],
        metavar='NAME',
        help='these sets of configs/test_sets, or files like those, instead of the '
        "config's",
    )
    add_overrides(parser)
    args = parser.parse_args()

    from mmhyperface.inference.dataset_embeddings import require_names
    from mmhyperface.visualization import require_picture

    if args.train_images < 0:
        raise UserError(f'--train-images is a number, got {args.train_images}')
    args.names = require_names(args.names, args.sources)
    for source in args.sources:
        if not source.endswith(FEATURES):
            require_checkpoint(source)
    require_picture(args.out)
    return args


def verifications(
    results: dict[str, dict[str, Any]], source: str
) -> dict[str, VerificationResult]:
    """Those of set -> protocol -> result that are of pairs."""
    from mmhyperface.evaluation.protocols import VerificationResult

    of_pairs = {
        name: result
        for name, protocols in results.items()
        for result in protocols.values()
        if isinstance(result, VerificationResult)
    }
    if not of_pairs:
        raise UserError(f'{source}: no test set has pairs to verify')
    return of_pairs


def tested(runner: Runner, source: str) -> dict[str, VerificationResult]:
    """What the metrics of a test found out."""
    runner.test()
    results: dict[str, dict[str, Any]] = {}
    for metric in runner.test_loop.evaluator.metrics:
        for name, result in getattr(metric, 'results_by_set', {}).items():
            results.setdefault(name, {})[result.protocol] = result
    return verifications(results, source)


def training_angles(
    runner: Runner, cfg: Config, dataset: Any, count: int, seed: int
) -> CentreAngles:
    """Of so many images of a training set."""
    import torch

    from mmhyperface.inference.dataset_embeddings import embed, head_of
    from mmhyperface.visualization import centre_angles

    head = head_of(runner.model, cfg.filename)
    order = np.random.default_rng(seed).permutation(len(dataset))[:count]
    numbers = np.sort(order).tolist()
    labels = torch.tensor([dataset.get_cat_ids(number)[0] for number in numbers])
    return centre_angles(head, embed(runner, cfg, 'train', dataset, numbers), labels)


def main() -> None:
    args = parse_args()

    from mmhyperface.inference.dataset_embeddings import build_dataset
    from mmhyperface.inference.feature_evaluation import examine_config
    from mmhyperface.inference.loading import load_runner
    from mmhyperface.visualization import draw_similarities, save_figure

    cfg = load_config(args.config, args.cfg_options, args.test_sets)
    if not cfg.get('test_dataloader'):
        raise UserError(f'{args.config} has no test_dataloader; give --test-sets')
    networks = [source for source in args.sources if not source.endswith(FEATURES)]
    dataset = build_dataset(cfg, 'train') if args.train_images and networks else None
    if dataset is None and cfg.model.get('head'):
        # Embeddings need no class centres, which may be most of the model.
        cfg.model.head = None
    pairs: dict[str, dict[str, VerificationResult]] = {}
    angles: dict[str, CentreAngles] = {}
    for name, source in zip(args.names, args.sources, strict=True):
        if source not in networks:
            pairs[name] = verifications(examine_config(cfg, source), source)
            continue
        runner = load_runner(cfg, source, test=True)
        if dataset is not None:
            angles[name] = training_angles(
                runner, cfg, dataset, args.train_images, args.seed
            )
        pairs[name] = tested(runner, source)
    save_figure(draw_similarities(pairs, angles), args.out)
    print(f'{args.out}: {", ".join(pairs)}')


if __name__ == '__main__':
    with report_errors():
        main()
