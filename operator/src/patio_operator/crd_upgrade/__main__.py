"""`python -m patio_operator.crd_upgrade`."""

import sys

from patio_operator.crd_upgrade.upgrade import main

sys.exit(main())
