"""What a rule's command runs: the modules that its function imports, found in the source.

``python -m workflow_lib charge-order`` calls the function ``charge_order`` of a file in ``cli/``. Its
own import statements are where the code of the command begins. How the configuration is read
(``config.py``) is left out: what a rule takes from it is in the rule's parameters, resolved.
"""

from __future__ import annotations

import ast
from functools import cache

from workflow_lib.core.code import PACKAGE, ROOT, code_checksum


@cache
def _functions() -> dict[str, ast.FunctionDef]:
    """Return the functions of the command line by name."""
    found: dict[str, ast.FunctionDef] = {}
    for file in sorted((ROOT / "cli").glob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                found[node.name] = node
    return found


def command_modules(command: str) -> list[str]:
    """Return the modules of this package that a command imports directly, sorted.

    Raises ValueError for a command that no function of ``cli/`` carries the name of.
    """
    function = _functions().get(command.replace("-", "_"))
    if function is None:
        raise ValueError(f"no function of {PACKAGE}/cli is named after the command {command!r}")
    modules = {
        node.module
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{PACKAGE}.")
    }
    return sorted(modules - {f"{PACKAGE}.config"})


def code_of(command: str, *more: str) -> str:
    """Return the checksum of a command's code and of ``more`` modules that it loads by name."""
    return code_checksum(*command_modules(command), *more)
