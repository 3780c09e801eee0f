"""``python -m workflow_lib COMMAND``, the same as ``workflow-lib COMMAND``."""

import sys

from workflow_lib.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
