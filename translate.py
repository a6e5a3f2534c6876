"""Door to the translate command; `python translate.py --help` tells what it does."""

import sys

from mt.cli.doors import translate

if __name__ == "__main__":
    sys.exit(translate())
