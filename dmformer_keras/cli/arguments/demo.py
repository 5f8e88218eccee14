"""The arguments of `dmformer demo`."""

from dmformer_keras.cli.arguments.shared import MODEL_HELP, add_image_size_option, check_model
from dmformer_keras.errors import DMFormerError

DESCRIPTION = """\
Open a page in the browser: drop a photograph on it to see its classes, and where in it they
are seen (Grad-CAM) or, with a segmenter, the class of each pixel. Only this machine can open the
page, and nothing leaves it."""
EPILOG = """\
examples:
  dmformer demo dmformer_t_imagenette
  dmformer demo runs/streets --port 8000 --no-browser

ended by Ctrl-C. Needs pip install "dmformer-keras[demo]".
"""


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
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
    check_model(args.model, exported=False)
