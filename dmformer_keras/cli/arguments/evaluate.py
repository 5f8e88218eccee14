"""The arguments of `dmformer evaluate`."""

from dmformer_keras.cli.arguments.shared import (
    EXPORTED_HELP,
    add_data_options,
    add_image_size_option,
    add_segmentation_options,
    check_data,
    check_model,
)
from dmformer_keras.data.splits import SPLITS

DESCRIPTION = """\
Measure a trained model on labeled images.
For a classifier: top-1 accuracy, top-5 accuracy (printed with more than ten classes), mean
cross-entropy, and the accuracy of every class.
For a segmenter, on images in their own size: mean intersection over union (mIoU) and the IoU of
every class, pixel accuracy, mean accuracy of the classes, and frequency-weighted IoU."""
EPILOG = """\
examples:
  dmformer evaluate runs/photos --data photos/
  dmformer evaluate runs/photos --data photos.zip --split test --json
  dmformer evaluate photos_int8.tflite --data photos/
  dmformer evaluate runs/streets --data streets/ --split test --flip --scales 0.75 1 1.25
"""


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument("model", metavar="MODEL", help=EXPORTED_HELP)
    add_data_options(parser)
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="val",
        help="split to measure on; use all for data without splits (default: val)",
    )
    add_image_size_option(parser)
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images per batch, for a classifier (default: 64)",
    )
    add_segmentation_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="print one line of JSON, shares in 0..1"
    )


def check(args):
    """Checks what can be known at once."""
    kind = check_model(args.model, image_size=args.image_size)
    check_data(args.data, [args.split], kind, args.model)
