"""Each family in our trainer against its upstream trainer: seconds per epoch and validation error.

    python benchmarks/training.py [--family mace] [--quick]

Ends with one line of JSON a family. Finished repetitions are kept under ``results/benchmarks/`` and
not measured again unless code, data or settings have changed. There are also ``training.csv`` (all
runs) and ``training.md`` (the summary). ``benchmarks/README.md`` says what is the same on both sides.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # The folder of a script comes first on the path and would hide packages of the same names.
    sys.path[0] = str(ROOT)

from benchmarks.cases import FAMILIES, RESULTS, make_case, make_data  # noqa: E402
from benchmarks.runner import prepare_processes, repetitions  # noqa: E402
from benchmarks.summary import Pair, markdown, rows, summarise  # noqa: E402

BUSY = 1.5
"""Load average above which times mean little on two cores."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--family", action="append", choices=FAMILIES, help="only this one; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="one repetition of three epochs")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3, help="repetitions that also count for the errors")
    parser.add_argument("--epochs", type=int, help="of those repetitions; default: by family")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repetitions, options.seeds, options.epochs = 1, 1, 3
    if options.repetitions < 1 or options.seeds < 0 or (options.epochs or 2) < 2:
        parser.error("it takes one repetition and two epochs at least: the first epoch is not timed")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, write the table, print the lines."""
    import pandas as pd
    from tqdm import tqdm

    from workflow_lib.core.io import atomic_path, write_csv

    options = parse(arguments)
    families = options.family or list(FAMILIES)
    prepare_processes(families)
    data = make_data(options.out / "data")
    table: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    with tqdm(total=len(families) * options.repetitions, unit="repetition", file=sys.stderr) as bar:
        for family in families:
            bar.set_description(family)
            case = make_case(family, data, epochs=options.epochs)
            pairs: list[Pair] = []
            for pair in repetitions(case, options.out / "training", options.repetitions, options.seeds):
                pairs.append(pair)
                table += rows(family, pair)
                bar.set_postfix_str(f"ratio {pair.ratio:.2f}")
                bar.update()
            lines.append(summarise(family, pairs))
    write_csv(pd.DataFrame(table), options.out / "training.csv")
    with atomic_path(options.out / "training.md") as temporary:
        temporary.write_text(markdown(lines))
    for line in lines:
        if line["load_max"] > BUSY:
            print(
                f"{line['name']}: the load average reached {line['load_max']}; measure again on an idle "
                "machine (cpu_ratio suffers least)",
                file=sys.stderr,
            )
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
