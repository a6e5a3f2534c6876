"""Door to the export command; `python tools/export.py --help` tells what it does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mt.cli.doors import export

if __name__ == "__main__":
    sys.exit(export())
