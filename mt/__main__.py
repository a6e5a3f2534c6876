"""`python -m mt COMMAND`: what `mt COMMAND` does."""

import sys

from mt.cli.commands import main

if __name__ == "__main__":  # processes that are started import this file again
    sys.exit(main())
