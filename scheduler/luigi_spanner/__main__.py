"""`python -m luigi_spanner` is the console script `luigi-spanner`."""

from __future__ import annotations

import sys

from luigi_spanner.cli import main

sys.exit(main())
