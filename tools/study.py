"""`python tools/study.py --help`: a grid of trainings, and what it says about losses, confidence and beams."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: its inspect.py would hide the library's

from mt.cli.main import run
from tools.studies.command import main

if __name__ == "__main__":  # processes that are started import this file again
    sys.exit(run(main))
