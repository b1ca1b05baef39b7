"""``python -m dynlog.cli`` is ``dynlog``."""

import sys

from dynlog.cli.app import entry

sys.exit(entry())
