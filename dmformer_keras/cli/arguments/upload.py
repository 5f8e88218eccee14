"""The arguments of `dmformer upload`."""

DESCRIPTION = """\
Put a preset on the Hugging Face Hub, with a model card: the preset's own README.md, or one written
from its metadata. Log in first, by `hf auth login` or the environment variable HF_TOKEN."""
EPILOG = """\
examples:
  dmformer upload weights/photos hf://you/photos --licence other
  dmformer predict hf://you/photos cat.jpg
"""


def add_arguments(parser):
    """Adds the arguments of this command."""
    parser.add_argument("preset", metavar="PRESET", help="the folder of a preset with weights")
    parser.add_argument("address", metavar="ADDRESS", help="hf://user/repository")
    parser.add_argument(
        "--licence",
        metavar="NAME",
        help="licence for the model card, by its name on the Hub",
    )
    parser.add_argument("--private", action="store_true", help="create a private repository")
