"""The code behind a rule's command: the modules that its function imports, found in the source.

``python -m workflow_lib charge-order`` calls the function ``charge_order`` of a file in ``cli/``.
The code of the command starts with that function's own import statements. How the configuration is
read (``config.py``, ``config_files.py``) is left out: the values that a rule takes from it are in
the rule's parameters, resolved. The function itself counts too, because the values it passes on
decide the result.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache

from workflow_lib.core.code import PACKAGE, ROOT, code_checksum


@cache
def _functions() -> dict[str, ast.FunctionDef]:
    """Return the commands' functions by name: those in ``cli/`` that have a decorator."""
    found: dict[str, ast.FunctionDef] = {}
    for file in sorted((ROOT / "cli").glob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.decorator_list:
                if node.name in found:
                    raise ValueError(f"two functions of {PACKAGE}/cli are named {node.name!r}")
                found[node.name] = node
    return found


def _function(command: str) -> ast.FunctionDef:
    """Return the function of a command; raise ValueError if no function is named after it."""
    function = _functions().get(command.replace("-", "_"))
    if function is None:
        raise ValueError(f"no function of {PACKAGE}/cli is named after the command {command!r}")
    return function


def command_modules(command: str) -> list[str]:
    """Return the modules of this package that a command imports directly, sorted."""
    modules = {
        node.module
        for node in ast.walk(_function(command))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{PACKAGE}.")
    }
    return sorted(modules - {f"{PACKAGE}.config", f"{PACKAGE}.config_files"})


_asked: dict[str, tuple[str, ...]] = {}
"""The arguments of :func:`code_of` by what it answered."""


@cache
def code_of(command: str, *more: str) -> str:
    """Return the checksum of a command's code and of ``more`` modules that it loads by name.

    It stays what it was when this process first asked.
    """
    modules = code_checksum(*command_modules(command), *more)
    statements = ast.Module(_function(command).body[1:], type_ignores=[])  # after the docstring
    checksum = hashlib.sha256(f"{modules} {ast.dump(statements)}".encode()).hexdigest()[:16]
    _asked[checksum] = (command, *more)
    return checksum


def code_stands(checksum: str) -> bool:
    """Return whether the code on disk is still that of an answer of :func:`code_of`.

    A job is a process of its own, which imports what is on disk when it starts. The files are read again;
    which ones they are can change only with one of them.
    """
    if checksum not in _asked:
        return True
    _functions.cache_clear()
    code_checksum.cache_clear()
    try:
        return code_of.__wrapped__(*_asked[checksum]) == checksum
    except (ValueError, OSError, SyntaxError):  # a file is gone, or half-written
        return False
