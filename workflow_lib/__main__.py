"""``python -m workflow_lib VERB``: one verb a rule, each runnable by hand.

Nothing heavy is imported before a verb needs it; a mistake of the user ends with one line and
exit status 2.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from workflow_lib.cli import by_hand, calculations, common, stages
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import disk_full, disk_is_full
from workflow_lib.core.locks import alone

Verb = Callable[[argparse.Namespace], None]
type Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workflow_lib",
        description="Machine-learned potentials with and without charge-state labels, against DFT.",
        epilog="The verbs of the workflow's stages take the run's configuration; those below "
        "them work on any trained model.",
    )
    commands = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _stage_verbs(commands)
    _dft_verbs(commands)
    _model_verbs(commands)
    return parser


def _verb(commands: Commands, name: str, run: Verb, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    return command


def _stage_verbs(commands: Commands) -> None:
    """The verbs that the rules call: configuration in, one stage's folder out."""

    def verb(name: str, run: Verb, text: str, *paths: str) -> argparse.ArgumentParser:
        command = _verb(commands, name, run, text)
        command.add_argument(
            "--config", type=Path, default=Path("config/config.yaml"), help="configuration file"
        )
        # Sources have a lock of their own, provenance is a file.
        command.set_defaults(alone=name not in ("sources", "provenance"))
        for path in paths:
            many = "*" if path in ("charge_orders", "searches", "embeddings", "trainings") else None
            command.add_argument(f"--{path}", type=Path, required=True, nargs=many, metavar="DIR")
        return command

    sources = verb("sources", stages.sources, "fetched files -> one frame table, what to cite", "out")
    sources.add_argument("--jobs", type=int, default=1, metavar="N", help="files read at once (default 1)")
    verb("dataset", stages.dataset, "frames, charge states, folds, summary", "out")
    train = verb(
        "train", stages.train, "train one model (resumes if interrupted)", "dataset", "work", "out"
    )
    train.add_argument("--model", required=True, metavar="ID", help="e.g. painn-entropy-f0-s1")
    verb(
        "charge-order-reference",
        stages.charge_order_reference,
        "DFT answers for the charge-ordered states",
        "dataset",
        "out",
    )
    verb(
        "charge-order",
        stages.charge_order,
        "one model answers all charge-ordered states",
        *("model-dir", "reference", "dataset", "work", "out"),
    )
    verb(
        "charge-order-ewald",
        stages.charge_order_ewald,
        "formal-charge ranking",
        "reference",
        "dataset",
        "out",
    )
    verb(
        "charge-order-identical",
        stages.charge_order_identical,
        "all models on several charge orders of the same atoms",
        *("trainings", "dataset", "out"),
    )
    verb(
        "charge-order-overview",
        stages.charge_order_overview,
        "all models side by side",
        "charge_orders",
        "out",
    )
    verb(
        "search",
        stages.search,
        "genetic algorithm and random search with one model",
        *("model-dir", "reference", "work", "out"),
    )
    verb(
        "search-overview",
        stages.search_overview,
        "all searches side by side; what DFT has to answer",
        *("searches", "reference", "out"),
    )
    verb(
        "thermodynamics",
        stages.thermodynamics,
        "convex hull and voltage against DFT",
        *("reference", "charge_orders", "searches", "out"),
    )
    verb(
        "embedding",
        stages.embedding,
        "what one model's node embeddings know of the charge",
        *("model-dir", "dataset", "reference", "out"),
    )
    verb(
        "embedding-overview", stages.embedding_overview, "all embeddings side by side", "embeddings", "out"
    )
    verb(
        "comparison",
        stages.comparison,
        "one table: model x metric",
        *("trainings", "charge_orders", "searches", "thermodynamics", "embeddings", "out"),
    )
    verb("provenance", stages.provenance, "configuration, versions, checksums of a run", "out")


def _dft_verbs(commands: Commands) -> None:
    """The verbs of the store of DFT calculations."""

    def verb(name: str, run: Verb, text: str) -> argparse.ArgumentParser:
        command = _verb(commands, name, run, text)
        command.add_argument(
            "--config", type=Path, default=Path("config/config.yaml"), help="configuration file"
        )
        return command

    plan = verb("dft-plan", calculations.dft_plan, "calculations that answer what is pending")
    plan.add_argument("--pending", type=Path, required=True, metavar="CSV", help="from the searches")
    plan.add_argument("--out", type=Path, metavar="FILE", help="one job file for all")
    plan.add_argument("--each", type=Path, metavar="DIR", help="one job file a calculation")
    run = verb("dft-run", calculations.dft_run, "compute a job file; several may run at once")
    run.add_argument("--jobs", type=Path, required=True, metavar="FILE", help="from dft-plan")
    run.add_argument("--store", type=Path, metavar="DIR", help="default: dft.store of the configuration")
    run.add_argument("--out", type=Path, metavar="FILE", help="write the tally as JSON")
    run.add_argument("--retry-failed", action="store_true", help="try failed calculations again")
    status = verb("dft-status", calculations.dft_status, "what the store holds")
    status.add_argument("--store", type=Path, metavar="DIR", help="default: dft.store of the configuration")
    energies = verb("dft-energies", calculations.dft_energies, "DFT energies of pending arrangements")
    energies.add_argument("--pending", type=Path, required=True, metavar="CSV", help="from the searches")
    energies.add_argument("--out", type=Path, required=True, metavar="DIR")


def _model_verbs(commands: Commands) -> None:
    """The verbs that work on any trained model or frame file."""
    schema = _verb(commands, "schema", by_hand.schema, "JSON schema of the configuration")
    schema.add_argument("--out", type=Path, required=True, metavar="FILE")

    evaluate = _verb(commands, "evaluate", by_hand.evaluate, "errors of a trained model on labelled frames")
    evaluate.add_argument("model", type=Path, metavar="MODEL_DIR")
    evaluate.add_argument("frames", type=Path, metavar="FRAMES", help="Parquet or extended XYZ")
    evaluate.add_argument("--energy-reference", help="level of theory, where the file does not say")
    evaluate.add_argument("--json", action="store_true", help="print JSON")

    predict = _verb(commands, "predict", by_hand.predict, "energy, forces, moments, charges of a structure")
    relax = _verb(commands, "relax", by_hand.relax, "relax the positions of a structure in its cell")
    for command in (predict, relax):
        command.add_argument("model", type=Path, metavar="MODEL_DIR")
        command.add_argument("structure", type=Path, metavar="STRUCTURE", help="any format ASE reads")
        command.add_argument(
            "--assign",
            choices=("labels", "search"),
            default="labels",
            help="where charge states come from: labels (or moments) in the file, or the lowest "
            "energy over all neutral assignments",
        )
    predict.add_argument("--json", action="store_true", help="print JSON")
    relax.add_argument("out", type=Path, metavar="OUT", help="any format ASE writes")
    relax.add_argument("--fmax", type=float, default=0.02, help="eV/A (default 0.02)")
    relax.add_argument("--max-steps", type=int, default=500, help="default 500")

    convert = _verb(commands, "convert", by_hand.convert, "frame table <-> extended XYZ <-> ASE db")
    convert.add_argument("frames", type=Path, metavar="FRAMES")
    convert.add_argument("out", type=Path, metavar="OUT", help="suffix .parquet, .extxyz or .db")
    convert.add_argument("--energy-reference", help="level of theory, where the file does not say")
    convert.add_argument("--formula-units", type=int, help="per cell, where the file does not say")
    convert.add_argument(
        "--stress-unit", choices=("eV/A^3", "GPa", "kbar"), help="of the stress in a foreign file"
    )

    fetch = _verb(commands, "fetch", by_hand.fetch, "download and verify the files of a data source")
    fetch.add_argument(
        "--source", required=True, metavar="NAME", help="from the table, or local:PATH (folder or glob)"
    )
    fetch.add_argument("--out", type=Path, required=True, metavar="DIR", help="files go to DIR/NAME")
    fetch.add_argument(
        "--sources", type=Path, default=Path("config/sources.yaml"), metavar="FILE", help="table of sources"
    )
    fetch.add_argument(
        "--only", action="append", default=[], metavar="GLOB", help="paths wanted; may be repeated"
    )
    fetch.add_argument("--verify", action="store_true", help="hash files again that look unchanged")
    fetch.add_argument("--no-unpack", action="store_true", help="leave zip and tar archives packed")

    read = _verb(commands, "read", by_hand.read, "foreign files of any size -> one frame table")
    read.add_argument(
        "--in", dest="inputs", nargs="+", required=True, metavar="PATH", help="files, folders or globs"
    )
    read.add_argument("--out", type=Path, required=True, metavar="DIR")
    read.add_argument("--jobs", type=int, default=1, metavar="N", help="files read at once (default 1)")
    read.add_argument("--energy-reference", help="level of theory, where the files do not say")
    read.add_argument("--formula-units", type=int, help="per cell, where the files do not say")
    read.add_argument(
        "--stress-unit", choices=("eV/A^3", "GPa", "kbar"), help="default: by magnitude, file by file"
    )
    read.add_argument("--stress-converged", action="store_true", help="the files' stress may be trained on")
    read.add_argument(
        "--surrogates",
        choices=("auto", "always", "never"),
        default="auto",
        help="charge states shown as another element (Ga for Fe3+): turned back where its moment "
        "tells (auto), in every frame, or not at all",
    )
    read.add_argument(
        "--config", type=Path, default=Path("config/config.yaml"), help="configuration file (redox rule)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; 0 on success, 2 for a mistake of the user.

    A stage works alone in its folder: after a crash its predecessor may still be at it.
    """
    options = _parser().parse_args(arguments)
    try:
        with contextlib.ExitStack() as stack:
            if "alone" in options and options.alone:
                common.read_config(options)  # a mistake in it leaves no trace in the folder
                stack.enter_context(alone(options.out, options.verb))
            options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    except OSError as error:
        if not disk_is_full(error):
            raise
        with contextlib.suppress(OSError):  # the log may lie on the same disk
            where = error.filename or getattr(options, "out", "the log")
            print(f"error: {disk_full(where)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
