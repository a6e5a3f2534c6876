"""Door to the shortlist command; `python tools/shortlist.py --help` tells what it does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mt.cli.doors import shortlist

if __name__ == "__main__":
    sys.exit(shortlist())
