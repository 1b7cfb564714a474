"""Write the embeddings of pictures to a file.

    python tools/inference/embed.py model.pth crops --out embeddings.npz
    python tools/inference/embed.py model.onnx 'photographs/**/*.jpg' \\
        --detector face_detection_yunet_2023mar.onnx --out embeddings.parquet

INPUT is a picture, a folder, a pattern, or a list: a .txt file with a path in each
line, or a .csv, .tsv or .parquet table with columns path, x1, y1 ... x5, y5, landmarks.
Paths of a list start from its own folder.

Exit status 0: every picture is embedded. 3: some are not, as stderr tells. 1: none
is, or a mistake, which is told.
"""

import argparse
from pathlib import Path

from mmhyperface.inference.options import (
    add_batches,
    add_choice,
    add_model,
    inferencer_from,
    inputs_of,
    require_some,
    tell_faces,
)
from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import INCOMPLETE
from mmhyperface.utils.paths import require_folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model(parser)
    add = parser.add_argument
    add('inputs', metavar='INPUT', nargs='+', help='see above')
    add('--out', type=Path, required=True, help='.npz or .parquet file')
    add('--overwrite', action='store_true', help='replace it')
    add(
        '--landmarks',
        metavar='FILE',
        help='lines or rows `path x1 y1 ... x5 y5`, as align_faces.py writes them; '
        'paths start from INPUT, a folder',
    )
    add('--out-dir', type=Path, help='write the pictures, with the faces marked, here')
    add_choice(parser, 'all')
    add_batches(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from mmhyperface.inference.annotation import draw_pictures
    from mmhyperface.inference.embedding_files import (
        require_embedding_file,
        save_embeddings,
    )

    require_embedding_file(args.out, args.overwrite)
    if args.out_dir:
        require_folder(args.out_dir)
    inferencer = inferencer_from(args)
    faces = inferencer.embed(
        inputs_of(args), args.batch_size, args.landmarks, show_progress=True
    )
    tell_faces(faces)
    require_some(faces)
    save_embeddings(args.out, faces, inferencer.convention, args.overwrite)
    if args.out_dir:
        labels = [(face, f'{face.number}') for face in faces]
        draw_pictures(labels, args.out_dir, max_megapixels=args.max_megapixels)
    print(
        f'{len(faces.usable)} embeddings of {faces.dimensions} values in {args.out}, '
        f'{len(faces.problems)} left out'
    )
    if faces.problems:
        raise SystemExit(INCOMPLETE)


if __name__ == '__main__':
    with report_errors():
        main()
