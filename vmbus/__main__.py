"""``python -m vmbus`` is the ``vmbus`` command."""

import sys

from vmbus.cli import main

sys.exit(main())
