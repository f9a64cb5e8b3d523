"""``python -m glmtui`` is the same program as ``glmtui``."""

import sys

import glmtui
from glmtui.system.programs import drop_working_folder

drop_working_folder(glmtui.__file__)  # before anything is imported that could be found there

from glmtui.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
