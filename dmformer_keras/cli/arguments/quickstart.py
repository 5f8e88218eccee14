"""The arguments of `dmformer quickstart`."""

import importlib.util

from dmformer_keras.errors import DMFormerError

DESCRIPTION = """\
Run all steps in a few minutes on a laptop's processor, without a network: train DMFormer-N on
the 1,797 handwritten digits of scikit-learn, measure it on digits that it was not trained on, draw
curves and a confusion matrix, convert it to TFLite, and check that the converted model gives the
same predictions."""
EPILOG = """\
examples:
  dmformer quickstart
  dmformer quickstart --output digits --epochs 20
"""
_NEEDED = ("tensorflow", "ai_edge_litert", "matplotlib", "sklearn")


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument(
        "--output",
        metavar="DIR",
        default="dmformer-quickstart",
        help="a new or empty folder (default: dmformer-quickstart)",
    )
    parser.add_argument(
        "--epochs", type=int, default=10, metavar="N", help="passes over the digits (default: 10)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted quickstart")


def check(args):
    """Checks that what it needs is installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise DMFormerError(
            f"quickstart needs {', '.join(missing)}, which is not installed; run "
            '`pip install "dmformer-keras[quickstart]"`.'
        )
