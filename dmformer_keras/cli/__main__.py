"""`python -m dmformer_keras.cli`, the same as `dmformer`."""

import sys

from dmformer_keras.cli import main

if __name__ == "__main__":
    sys.exit(main())
