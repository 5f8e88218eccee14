"""The arguments of `dmformer demo`."""

import importlib.util

from dmformer_keras.cli.arguments.shared import MODEL_HELP, add_image_size_option, check_model
from dmformer_keras.errors import DMFormerError

# {whether a segmenter: the shipped preset that the page shows if no other is given}
SHIPPED = {False: "dmformer_t_imagenette", True: "dmformer_t_camvid"}
_NEEDED = ("gradio", "matplotlib")  # matplotlib draws the heat

DESCRIPTION = """\
Open a page in the browser to try models on photographs. One tab shows a classifier's classes
and where it sees them (Grad-CAM), the other a segmenter's class of each pixel. Only this machine
can open the page, and photographs stay on it."""
EPILOG = """\
examples:
  dmformer demo
  dmformer demo runs/photos
  dmformer demo runs/photos runs/streets --port 8000 --no-browser

Ctrl-C ends it. It needs pip install "dmformer-keras[demo]", or from a checkout ".[demo]".
"""


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        help=f"a classifier, a segmenter, or one of each (default: {SHIPPED[False]} and "
        f"{SHIPPED[True]}): {MODEL_HELP}",
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="port of the page (default: a free one)"
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address, do not open a browser"
    )
    add_image_size_option(parser)


def check(args):
    """Checks what can be known at once."""
    if args.port is not None and not 1 <= args.port <= 65535:
        raise DMFormerError(f"--port must be from 1 to 65535, not {args.port}.")
    if len(args.models) > len(SHIPPED):
        raise DMFormerError(
            "The page shows one classifier and one segmenter; give no more than two models, not "
            f"{len(args.models)}."
        )
    for model in args.models:
        check_model(model, exported=False)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise DMFormerError(
            f"The page needs {', '.join(missing)}, which is not installed; run "
            '`pip install "dmformer-keras[demo]"`.'
        )
