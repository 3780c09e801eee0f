"""How commands are declared, and what they share. Imports nothing heavy: ``--help`` is instant.

A command is a function with its name (``charge_order`` is ``charge-order``), decorated with its
options. It imports the code that computes inside the function, so that the command line starts fast
and ``workflow/code.py`` sees what a rule's result depends on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import click

from workflow_lib.core.errors import printable
from workflow_lib.core.io import disk_full, disk_is_full
from workflow_lib.core.locks import alone

type Function = Callable[..., None]
type Decorator = Callable[[Any], Any]

DEFAULT_CONFIG = Path("config/config.yaml")
_SEPARATOR = "\0"  # a character that no argument of a process can contain


class Command(click.Command):
    """A command with options that take several values at once: ``--in a.xyz b.xyz``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the values after each such option, which click would take for arguments.

        An option that is given twice (``--in a.xyz --in b.xyz``) has the values of both.
        """
        many = {
            name
            for option in self.params
            if isinstance(option.type, Paths)
            for name in (*option.opts, *option.secondary_opts)
        }
        joined: list[str] = []
        places: dict[str, int] = {}
        rest = list(args)
        while rest:
            whole = rest.pop(0)
            name, given, value = whole.partition("=")
            if name not in many:
                joined.append(whole)
                continue
            values = [value] if given else []
            while not given and rest and not rest[0].startswith("-"):
                values.append(rest.pop(0))
            if name in places:
                joined[places[name]] = _SEPARATOR.join([joined[places[name]], *values])
            else:
                joined += [name, _SEPARATOR.join(values)]
                places[name] = len(joined) - 1
        return super().parse_args(ctx, joined)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn a full disk, wherever it occurs, into a UserError."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if not disk_is_full(error):
                raise
            raise disk_full(error.filename or ctx.params.get("out") or "the log") from error


class Paths(click.ParamType):
    """Paths given one after the other after one option, at least ``least`` of them."""

    name = "paths"

    def __init__(self, least: int = 0) -> None:
        self.least = least

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> list[Path]:
        """Return the paths; raise click's error if there are too few."""
        paths = [Path(part) for part in value.split(_SEPARATOR) if part]
        if len(paths) < self.least:
            self.fail(f"give {self.least} path or more.", param, ctx)
        return paths


class ConfigFile(click.Path):
    """The path of a configuration, read and checked as soon as it is given.

    ``studies``: a run with studies alone, which trains nothing, will do.
    """

    def __init__(self, *, studies: bool = False) -> None:
        super().__init__(path_type=Path)
        self.studies = studies

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the configuration; raise UserError if it is wrong."""
        from workflow_lib.config_files import load_config, load_studies

        return load_studies(Path(value)) if self.studies else load_config(Path(value))


class Positive(click.ParamType):
    """A finite number above zero."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; raise click's error unless it is a finite number above zero."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            self.fail(f"{value!r} is not a finite number above zero.", param, ctx)
        return number


FILE = click.Path(path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False)
COUNT = click.IntRange(min=1)
LEVEL_HELP = "level of theory, where the file does not say"
type StressUnit = Literal["eV/A^3", "GPa", "kbar"]
STRESS_UNITS = click.Choice(get_args(StressUnit.__value__))


def _config_option(*, studies: bool) -> Decorator:
    return click.option(
        "--config",
        type=ConfigFile(studies=studies),
        default=DEFAULT_CONFIG,
        show_default=True,
        metavar="FILE",
        help="configuration",
    )


config_option = _config_option(studies=False)
studies_option = _config_option(studies=True)
model_option = click.option(
    "--model",
    required=True,
    metavar="MODEL",
    help="folder of a trained model, or id of a potential under `outside` (<name>-outside)",
)
json_option = click.option("--json", "as_json", is_flag=True, help="print JSON")


def command(**settings: Any) -> Callable[[Function], Command]:
    """Return the decorator of a command; its help is the first line of the function's docstring."""
    return click.command(cls=Command, **settings)


def folder(name: str) -> Decorator:
    """Return the decorator of a required option that names one folder."""
    return click.option(name, type=FOLDER, required=True, metavar="DIR")


def folders(name: str) -> Decorator:
    """Return the decorator of a required option that names folders, one per model."""
    return click.option(name, type=Paths(), required=True, metavar="DIR ...")


def stage(*options: Decorator, studies: bool = False) -> Callable[[Function], Command]:
    """Return the decorator of a stage's command: configuration in, the folder ``--out`` written.

    ``studies``: the command takes the configuration of a run with studies alone as well.
    The command locks its folder, because after a crash its predecessor may still be working there.
    The configuration is read before, so that a mistake in it leaves no trace in the folder.
    """

    def declare(function: Function) -> Command:
        name = function.__name__.replace("_", "-")  # type: ignore[attr-defined]

        @functools.wraps(function)
        def locked(out: Path, **values: Any) -> None:
            with alone(out, name):
                function(out=out, **values)

        declared: Any = locked
        config = studies_option if studies else config_option
        for option in reversed((config, *options, folder("--out"))):
            declared = option(declared)
        return command()(declared)

    return declare


def say_read(summary: Mapping[str, Any], out: Path) -> None:
    """Print the result of reading foreign files and the path of the table."""
    for line in summary["statements"]:
        click.echo(printable(line))  # it may quote the file
    click.echo(
        f"{summary['frames']} frames in {out / 'frames.parquet'}; "
        f"{summary['set_aside']} set aside, {summary['duplicates']} duplicates left out"
    )
    found = [f"{name.replace('_', ' ')} {count}" for name, count in summary["labels"].items()]
    levels = ", ".join(f"{name} ({count})" for name, count in summary["energy_references"].items())
    click.echo(printable(f"frames with {', '.join(found)}; level {levels}"))
