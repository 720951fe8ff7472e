"""`python -m kvstore`."""

import sys

from kvstore.cli import run

if __name__ == "__main__":
    sys.exit(run())
