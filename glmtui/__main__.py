"""``python -m glmtui`` is the same program as ``glmtui``."""

import sys

import glmtui
from glmtui.system.programs import remove_working_folder_from_path

# Must run before any import that a file in the working folder could replace.
remove_working_folder_from_path(glmtui.__file__)

from glmtui.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
