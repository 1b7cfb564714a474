"""Tell whether two pictures show the same person.

    python tools/inference/verify.py model.pth one.png other.png --far 1e-4
    python tools/inference/verify.py model.onnx one.jpg other.jpg --threshold 0.35 \\
        --detector face_detection_yunet_2023mar.onnx --out both.png

Of several faces in a picture the largest is taken. Without --threshold and --far the
model's own threshold decides, for the lowest false accept rate that ten pairs of its
last examination stand on.

Exit status 0: the same person. 3: different people. 1: a mistake, or no threshold is
known and nothing is decided. 2: wrong arguments.
"""

import argparse
from pathlib import Path

from mmhyperface.inference.options import (
    DIFFERENT,
    add_choice,
    add_model,
    add_threshold,
    inferencer_from,
    tell_remarks,
)
from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model(parser)
    parser.add_argument('a', metavar='A', help='a picture')
    parser.add_argument('b', metavar='B', help='another one')
    add_threshold(parser)
    add_choice(parser, 'largest')
    parser.add_argument(
        '--out', type=Path, help='write both faces with the decision to this picture'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from mmhyperface.inference.annotation import (
        FORMATS,
        draw_verification,
        save_picture,
    )
    from mmhyperface.utils.figures import require_picture

    if args.out:
        require_picture(args.out, FORMATS)
    inferencer = inferencer_from(args)
    # A threshold that is not known is told before any picture is read.
    inferencer.threshold(args.threshold, args.far)
    result = inferencer.verify(args.a, args.b, args.threshold, args.far)
    tell_remarks(result.faces)
    print(f'score {result.score:.6f}')
    if args.out:
        save_picture(draw_verification(result), args.out)
    if result.threshold is None:
        raise UserError(
            f'nothing is decided: {inferencer.network.source} carries no threshold; '
            'give --threshold'
        )
    far = '' if result.far is None else f' (FAR {result.far:g} on {result.test_set})'
    print(f'threshold {result.threshold:.6f}{far}')
    print(result.decision)
    if not result.same:
        raise SystemExit(DIFFERENT)


if __name__ == '__main__':
    with report_errors():
        main()
