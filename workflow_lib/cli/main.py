"""The command ``workflow-lib``: its groups of commands, and how mistakes are shown.

A user's mistake ends with one line and exit status 2. Any other error is a fault of the program and
keeps its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from workflow_lib import __version__
from workflow_lib.cli.ablation import ablation
from workflow_lib.cli.charge_inference import charge_inference
from workflow_lib.cli.charge_order import (
    charge_order,
    charge_order_ewald,
    charge_order_identical,
    charge_order_overview,
    charge_order_reference,
)
from workflow_lib.cli.checks import checks
from workflow_lib.cli.comparison import comparison, provenance
from workflow_lib.cli.configuration import check, clean, schema
from workflow_lib.cli.dataset import dataset
from workflow_lib.cli.dft import dft_converge, dft_energies, dft_plan, dft_run, dft_status
from workflow_lib.cli.dynamics import dynamics, dynamics_study
from workflow_lib.cli.embedding import embedding, embedding_overview
from workflow_lib.cli.frames import convert, read
from workflow_lib.cli.hosts import host
from workflow_lib.cli.models import evaluate, export, predict, relax
from workflow_lib.cli.phase_diagram import phase_diagram, phase_diagram_fit, phase_diagram_sample
from workflow_lib.cli.report import appendix, report
from workflow_lib.cli.search import search, search_overview
from workflow_lib.cli.sources import fetch, sources
from workflow_lib.cli.thermodynamics import thermodynamics
from workflow_lib.cli.training import train
from workflow_lib.core.errors import UserError, printable

PROGRAM = "workflow-lib"
GROUPS: dict[str, tuple[click.Command, ...]] = {
    "Files, structures and models": (fetch, read, convert, host, evaluate, predict, relax, export),
    "A run and its configuration": (check, report, appendix, clean, schema),
    "Stages, as the rules call them": (
        *(sources, dataset, train),
        *(charge_order_reference, charge_order, charge_order_ewald),
        *(charge_order_identical, charge_order_overview),
        *(search, search_overview, thermodynamics, embedding, embedding_overview),
        *(phase_diagram_fit, phase_diagram_sample, phase_diagram),
        *(charge_inference, dynamics, dynamics_study, ablation),
        *(comparison, checks, provenance),
    ),
    "Calculations with DFT": (dft_plan, dft_run, dft_status, dft_energies, dft_converge),
}


class Group(click.Group):
    """The commands under their headings."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each heading."""
        width = max(len(name) for name in self.commands)
        limit = formatter.width - width - 6
        for heading, commands in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [((c.name or "").ljust(width), c.get_short_help_str(limit)) for c in commands]
                )


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog='Completion: put eval "$(_WORKFLOW_LIB_COMPLETE=bash_source workflow-lib)" into ~/.bashrc '
    "(zsh_source, fish_source for these shells).",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def group() -> None:
    """Train interatomic potentials with and without charge-state labels, and compare them with DFT."""


for _command in (command for commands in GROUPS.values() for command in commands):
    group.add_command(_command)


def _message(error: click.ClickException) -> str:
    """Return click's message as one line that names the command and its help."""
    message = printable(error.format_message().strip())
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else PROGRAM
    return f"{path}: {message} See {path} --help."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0 on success, 2 for a user's mistake, 130 if interrupted."""
    try:
        result = group.main(
            args=None if arguments is None else list(arguments), prog_name=PROGRAM, standalone_mode=False
        )
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        print(f"error: {_message(error)}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except click.Abort as error:
        cause = error.__cause__
        if isinstance(cause, EOFError):
            raise cause from error  # no question was asked, so a file ended too early
        print("interrupted", file=sys.stderr)
        return 130
    return result if isinstance(result, int) else 0
