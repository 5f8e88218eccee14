"""`dmformer presets`"""

from dmformer_keras import presets


def run(args):
    """Prints the table."""
    print(f"{'name':<26} {'parameters':>12} {'GMACs':>6}  {'weights':<7}  description")
    for name, metadata in presets.list_presets().items():
        weights = "yes" if presets.read_preset(name).has_weights else "no"
        parameters = metadata.get("parameters")
        macs = metadata.get("multiply_accumulates")
        print(
            f"{name:<26} {f'{parameters:,}' if parameters else '':>12} "
            f"{f'{macs / 1e9:.2f}' if macs else '':>6}  {weights:<7}  "
            f"{metadata.get('description', '')}"
        )
