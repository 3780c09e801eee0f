"""Written beside each command of a test run: the modules of workflow_lib that it loaded.

Python imports a file of this name at start where its folder is on PYTHONPATH.
"""

import atexit
import json
import os
import sys
from pathlib import Path

FOLDER = os.environ.get("LOADED_MODULES")


def _write() -> None:
    ours = sorted(name for name in sys.modules if name.split(".")[0] == "workflow_lib")
    if "workflow_lib.cli.main" in ours:  # a command, not Snakemake itself
        text = json.dumps({"arguments": sys.argv[1:], "modules": ours})
        Path(str(FOLDER), f"{os.getpid()}.json").write_text(text)


if FOLDER:
    atexit.register(_write)
