"""What it takes to plan a large run: a dry run of Snakemake on a configuration of many models.

    python benchmarks/planning.py [--seeds 5] [--repeat 3]

Four families in four variants with as many seeds as asked for: 5 seeds are 80 models and some 330
jobs, 156 seeds about 10,000. Nothing is computed and nothing is written to ``results/``. There is no
peer here: the line of JSON at the end has no ratio but figures. ``seconds`` is the wall time of the
whole process from start to end, the median of the repetitions; ``cpu_seconds`` its processor time,
which other work on the machine disturbs less; ``memory_mb`` the largest resident size.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import yaml

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = ["baseline", "entropy", "subset", "surrogate"]


@dataclass(frozen=True, slots=True)
class Plan:
    """One dry run: jobs planned, seconds of wall and processor time, largest resident size (MB)."""

    jobs: int
    seconds: float
    cpu_seconds: float
    memory_mb: float


def write_config(folder: Path, seeds: int) -> Path:
    """Write the smoke configuration without controls, in all variants and with so many seeds."""
    config = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    config |= {"run": "planning", "variants": VARIANTS, "seeds": list(range(1, seeds + 1)), "controls": []}
    path = folder / "planning.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def plan(config: Path) -> Plan:
    """Do a dry run in a separate process; RuntimeError with the end of its output if it fails."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--configfile", str(config)]
    command += ["--workflow-profile", "none", "--cores", "1", "--quiet", "rules"]
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        # Of this process alone: getrusage would give the largest of all children so far.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    total = re.search(r"^total\s+(\d+)", text, flags=re.MULTILINE)
    if process.returncode != 0 or total is None:
        raise RuntimeError("the dry run failed:\n" + "\n".join(text.splitlines()[-20:]))
    # Linux counts in units of 1024 bytes, macOS in bytes.
    memory = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e6 / 1024)
    return Plan(int(total[1]), seconds, usage.ru_utime + usage.ru_stime, memory)


def main() -> None:
    """Plan several times and end with one line of JSON."""
    parser = argparse.ArgumentParser(description="time and memory of planning a large run")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each model and variant")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions, of which the median counts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(Path(folder), arguments.seeds)
        plans = []
        for _ in range(arguments.repeat):
            plans.append(plan(config))
            print(plans[-1])
    figures = {
        "name": "planning",
        "models": 4 * len(VARIANTS) * arguments.seeds,
        "jobs": plans[0].jobs,
        "seconds": round(median(item.seconds for item in plans), 2),
        "cpu_seconds": round(median(item.cpu_seconds for item in plans), 2),
        "memory_mb": round(max(item.memory_mb for item in plans), 1),
        "repetitions": len(plans),
        "load": round(os.getloadavg()[0], 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
