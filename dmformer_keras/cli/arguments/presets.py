"""The arguments of `dmformer presets`."""

DESCRIPTION = """\
List the presets that this installation holds: architectures, which start from random
weights, and trained models. Multiply-accumulates are one 224x224 image's for an
architecture."""
EPILOG = """\
example:
  dmformer presets
"""


def add_arguments(parser):
    """No arguments."""
