"""The processor that computed: results depend on it in their last digits, trained models in more."""

from __future__ import annotations

import platform
import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def processor_name(cpuinfo: Path = CPUINFO) -> str:
    """Return the model of the processor with its family, model number and stepping, as Linux gives them.

    Virtual machines often hide the marketing name; the three numbers tell generations apart. Where
    there is no such file, the answer is what Python knows.
    """
    try:
        first = cpuinfo.read_text(errors="replace").split("\n\n")[0]
    except OSError:
        return platform.processor() or platform.machine()
    found = dict(re.findall(r"^([^\t:\n]+?)\s*:\s*(.*)$", first, re.MULTILINE))
    numbers = [found.get(key, "?") for key in ("cpu family", "model", "stepping")]
    return f"{found.get('model name', platform.machine())} (family {'/'.join(numbers)})"


def processor(*, cuda: bool = False) -> dict[str, str | int]:
    """Return what decides the last digits: processor, instruction set, threads, torch's math library.

    With ``cuda`` also the name of the GPU.
    """
    import torch

    built = torch.__config__.show()
    # One line each, e.g. "Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build ...".
    library = re.search(r"- (.*Math Kernel Library.*|.*OpenBLAS.*|.*Accelerate.*) *$", built, re.MULTILINE)
    kind = re.search(r"BLAS_INFO=(\w+)", built)
    found: dict[str, str | int] = {
        "model": processor_name(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "math_library": library[1].strip() if library else (kind[1] if kind else "unknown"),
    }
    if cuda:
        found["gpu"] = torch.cuda.get_device_name()
    return found
