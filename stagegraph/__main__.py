"""``python -m stagegraph``: the same as the ``stagegraph`` command."""

from __future__ import annotations

import sys

from stagegraph.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
