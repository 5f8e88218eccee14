"""`dmformer summary`"""

from dmformer_keras import presets
from dmformer_keras.classifier import DEFAULT_SIZE
from dmformer_keras.cli.options import add_image_size_option
from dmformer_keras.complexity import count_multiply_accumulates
from dmformer_keras.errors import DMFormerError
from dmformer_keras.loading import task_class
from dmformer_keras.task_table import SEGMENTATION_HEADS

DESCRIPTION = "Show the size of a model and its stages."
EPILOG = """\
examples:
  dmformer summary dmformer_s
  dmformer summary dmformer_n --image-size 96 --layers
  dmformer summary runs/photos
  dmformer summary dmformer_t --head semantic_fpn --num-classes 150 --image-size 512
"""


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument("name", metavar="NAME", help="a preset's name or folder")
    add_image_size_option(parser)
    parser.add_argument(
        "--head",
        choices=tuple(SEGMENTATION_HEADS),
        help="put this segmentation head on the preset's backbone",
    )
    parser.add_argument(
        "--num-classes", type=int, metavar="N", help="(default: the preset's own, or 1,000)"
    )
    parser.add_argument("--layers", action="store_true", help="list every layer too")


def run(args):
    """Prints the summary."""
    preset = presets.read_preset(args.name)
    *own_size, channels = presets.image_shape(preset.config)
    size = args.image_size or [side or DEFAULT_SIZE for side in own_size]
    if args.head and args.num_classes is None:
        raise DMFormerError("A new head has as many classes as you say; add --num-classes.")
    model = (SEGMENTATION_HEADS[args.head] if args.head else task_class(preset)).from_preset(
        args.name,
        load_weights=False,
        num_classes=args.num_classes,
        input_shape=(*size, channels),
        data_format="channels_last",
    )
    config = model.backbone.get_config()
    print(preset.metadata.get("description") or args.name)
    print(f"  input                 {size[0]}x{size[1]}x{channels}, values in 0..255")
    print(f"  weights               {'yes' if preset.has_weights else 'no, random ones'}")
    print(f"  parameters            {model.count_params():,}, {model.num_classes} classes")
    print(f"  multiply-accumulates  {count_multiply_accumulates(model):,} an image")
    for name, value in (preset.metadata.get("metrics") or {}).items():
        print(f"  {name:<21} {value:.4f}" if isinstance(value, float) else f"  {name:<21} {value}")
    print(f"\n  {'level':<6} {'stride':>6} {'blocks':>6} {'channels':>8}")
    for (level, info), depth in zip(
        model.backbone.feature_info.items(), config["depths"], strict=True
    ):
        print(f"  {level:<6} {info['stride']:>6} {depth:>6} {info['channels']:>8}")
    if args.layers:
        model.summary(expand_nested=True)
