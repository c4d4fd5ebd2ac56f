"""``python -m pytest_envpar``: the same as the command ``envpar``."""

from __future__ import annotations

import sys

from pytest_envpar.cli import main

if __name__ == "__main__":
    sys.exit(main())
