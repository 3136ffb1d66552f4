"""``python -m e2e_cluster``; see ``cli``."""

import sys

from e2e_cluster.cli import main

sys.exit(main())
