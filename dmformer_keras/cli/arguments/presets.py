"""The arguments of `dmformer presets`."""

DESCRIPTION = """\
List the presets of this installation: architectures, which start from random weights, and
trained models. Multiply-accumulates of an architecture are for one image of 224x224."""
EPILOG = """\
example:
  dmformer presets
"""


def add_arguments(parser):
    """No arguments."""
