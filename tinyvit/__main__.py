"""``python -m tinyvit`` is the command ``tinyvit``."""

import sys

from tinyvit.cli import main

sys.exit(main())
