"""Door to the import_marian command; `python tools/import_marian.py --help` tells what it does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mt.cli.doors import import_marian

if __name__ == "__main__":
    sys.exit(import_marian())
