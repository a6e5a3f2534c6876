"""`python tools/serve.py --help` tells what it does."""

import sys
from pathlib import Path

sys.path.pop(0)  # this folder: its inspect.py would hide the library's
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mt.cli.commands import main

if __name__ == "__main__":  # processes that are started import this file again
    sys.exit(main("serve"))
