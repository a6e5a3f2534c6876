"""Door to the plot_calibration command; `python tools/plot_calibration.py --help` tells what it does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mt.cli.doors import plot_calibration

if __name__ == "__main__":
    sys.exit(plot_calibration())
