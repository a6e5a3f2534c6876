"""Door to the train command; `python train.py --help` tells what it does."""

import sys

from mt.cli.doors import train

if __name__ == "__main__":
    sys.exit(train())
