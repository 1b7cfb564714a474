"""A page to try a network on: compare two pictures, enrol people, identify them.

    python tools/demo/app.py work_dirs/sphereface2_quickstart/iter_800.pth
    python tools/demo/app.py CHECKPOINT --detector face_detection_yunet_2023mar.onnx

Without a detector pictures are taken as crops that are aligned already. The page is
for this machine alone, unless `--host` or `--share` opens it to others; it needs no
network itself. Everyone who opens it sees the same people. Pictures that are uploaded
lie in a temporary folder, which goes with the server.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from mmhyperface.utils.command_line import report_errors
from mmhyperface.utils.errors import UserError
from mmhyperface.utils.optional_imports import require
from mmhyperface.utils.paths import require_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('model', help='checkpoint, or a model exported by tools/deployment/export.py')
    add('--config', help='of a checkpoint that does not tell its convention')
    add('--detector', help='model file of YuNet, to find faces in pictures')
    add('--gallery', type=Path, help='file to keep the people in, made if missing')
    add('--device', help='by default a GPU if there is one')
    add(
        '--resize',
        action='store_true',
        help='without a detector: bring crops of any size to that of the network',
    )
    add('--host', default='127.0.0.1', help='address to listen on (default: 127.0.0.1)')
    add('--port', type=int, help='by default the first free one from 7860 on')
    add('--share', action='store_true', help="open a public link by Gradio's servers")
    add('--open', action='store_true', help='open the page in a browser')
    args = parser.parse_args()
    if args.port is not None and not 0 < args.port < 65536:
        raise UserError('--port lies in 1 … 65535')
    if args.gallery:
        require_file(args.gallery)
    return args


def load(args: argparse.Namespace) -> Any:
    """The answers of the page."""
    # These take seconds; a mistake in the arguments is told before.
    from answers import Answers

    from mmhyperface.gallery import FaceGallery
    from mmhyperface.inference import FaceInferencer, open_network

    network = open_network(args.model, device=args.device, config=args.config)
    inferencer = FaceInferencer(
        network, detector=args.detector, resize=args.resize or None
    )
    if args.gallery and args.gallery.exists():
        gallery = FaceGallery.load(args.gallery, network.convention.fingerprint)
    else:
        gallery = FaceGallery.of(network.convention)
    return Answers(inferencer, gallery, args.gallery)


def notes(
    args: argparse.Namespace, size: tuple[int, int], data: dict | None
) -> list[str]:
    """What one has to know of the page.

    Args:
        size: Height and width of the crops that the network takes.
        data: What it was trained on.
    """
    lines = [f'Network: {Path(args.model).name}']
    if data and data.get('type') == 'SyntheticFaces':
        lines.append('It was trained on drawn faces: real ones it tells apart badly.')
    if args.detector:
        lines.append(
            'Faces are found in your pictures and aligned. Pictures stay on the '
            'machine that runs this page.'
        )
    else:
        lines.append(
            'There is no detector: pictures are taken as crops of a face, aligned '
            f'already, of {size[0]} x {size[1]} pixels. Start with --detector to use '
            'any picture.'
        )
    return lines


def serve(args: argparse.Namespace, folder: Path) -> None:
    import look
    import samples
    from page import build_page

    answers = load(args)
    size = answers.inferencer.network.crop_size
    pairs = [] if args.detector else samples.draw(folder / 'samples', max(size))
    page = build_page(answers, notes(args, size, answers.convention.data), pairs)
    try:
        _, place, link = page.launch(
            server_name=args.host,
            server_port=args.port,
            share=args.share,
            inbrowser=args.open,
            allowed_paths=[str(folder / 'samples')],
            max_file_size='100mb',
            footer_links=[],
            run_history=False,
            theme=look.theme(),
            css=look.CSS,
            js=look.SCRIPT,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:  # which speaks of Gradio's own options
        taken = (
            'all ports from 7860 on are taken'
            if args.port is None
            else f'port {args.port} is taken, or not allowed'
        )
        wrong = taken if 'empty port' in str(error) else str(error)
        raise UserError(f'the page cannot be served on {args.host}: {wrong}') from None
    print(f'The page is at {link or place} until Ctrl+C ends it.', flush=True)
    page.block_thread()


def end(*_: object) -> None:
    """Once: a second signal must not interrupt the cleaning up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(0)


def main() -> None:
    args = parse_args()
    # A server that is ended cleans up as one that is interrupted.
    signal.signal(signal.SIGTERM, end)
    with tempfile.TemporaryDirectory(prefix='mmhyperface-demo-') as folder:
        # Read when gradio is imported.
        os.environ['GRADIO_TEMP_DIR'] = folder
        os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
        require('gradio', 'demo')
        serve(args, Path(folder))


if __name__ == '__main__':
    with report_errors():
        main()
