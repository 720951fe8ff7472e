"""``python -m pmemheap``: the command line."""

import sys

from pmemheap.cli import main

sys.exit(main())
