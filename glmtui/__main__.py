"""``python -m glmtui`` is the same program as ``glmtui``."""

import sys

from glmtui.cli import main

if __name__ == "__main__":
    sys.exit(main())
