"""`dmformer summary`"""

from dmformer_keras import presets
from dmformer_keras.classifier import DEFAULT_SIZE
from dmformer_keras.complexity import count_multiply_accumulates
from dmformer_keras.loading import task_class
from dmformer_keras.task_table import SEGMENTATION_HEADS


def run(args):
    """Prints the summary."""
    preset = presets.read_preset(args.name)
    *own_size, channels = presets.image_shape(preset.config)
    size = args.image_size or [side or DEFAULT_SIZE for side in own_size]
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
