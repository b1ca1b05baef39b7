"""``python -m dynlog.cli`` is ``dynlog``."""

import sys

from dynlog.cli.app import main

sys.exit(main())
