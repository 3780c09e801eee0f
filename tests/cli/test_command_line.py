"""The command line itself: help, one line a mistake, exit statuses, completion, both ways to call it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from workflow_lib.__main__ import main
from workflow_lib.cli.common import Command, Paths, command
from workflow_lib.cli.main import GROUPS, group
from workflow_lib.workflow.code import command_modules

ROOT = Path(__file__).parents[2]
COMMANDS = [entry for commands in GROUPS.values() for entry in commands]
BY_HAND = {"read", "convert", "evaluate", "predict", "relax", "export", "fetch"}


def test_help_shows_every_command_once_under_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for heading, commands in GROUPS.items():
        section = said.partition(f"{heading}:\n")[2].partition("\n\n")[0].splitlines()
        assert [line.split()[0] for line in section] == [entry.name for entry in commands]
        assert not [line for line in section if line.endswith("...")], "too long for one line"
    assert set(group.commands) >= BY_HAND


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_every_command_has_its_function_name_and_help(
    entry: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """``workflow/code.py`` finds a command's function by this name."""
    assert entry.name is not None and entry.callback is not None
    assert entry.callback.__name__ == entry.name.replace("-", "_")
    assert isinstance(command_modules(entry.name), list)  # an error where there is no such function
    assert main([entry.name, "--help"]) == 0
    assert f"Usage: workflow-lib {entry.name} [OPTIONS]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["No such command 'trian'", "'train'"]),
        (["charge_order"], ["No such command 'charge_order'", "'charge-order'"]),
        (["dataset"], ["dataset: Missing option '--out'", "See workflow-lib dataset --help."]),
        (["relax", "m", "s", "o", "--fmx", "1"], ["No such option '--fmx'", "'--fmax'"]),
        (["relax", "m", "s", "o", "--fmax", "nan"], ["--fmax", "'nan' is not a finite number above zero"]),
        (["relax", "m", "s", "o", "--fmax", "inf"], ["--fmax", "finite"]),
        (["relax", "m", "s", "o", "--fmax", "-0.1"], ["--fmax", "above zero"]),
        (["relax", "m", "s", "o", "--fmax", "x"], ["--fmax", "'x'"]),
        (["relax", "m", "s", "o", "--max-steps", "-5"], ["--max-steps", "-5"]),
        (["relax", "m", "s", "o", "--max-steps", "1.5"], ["--max-steps", "1.5"]),
        (["relax", "m", "s"], ["Missing argument 'OUT'"]),
        (["predict", "m", "s", "--assign", "serach"], ["--assign", "'serach'", "search"]),
        (["read", "--in", "a", "--out", "b", "--jobs", "0"], ["--jobs", "0"]),
        (["read", "--in", "--out", "b"], ["--in", "1 path or more"]),
        (["convert", "a", "b", "--formula-units", "-4"], ["--formula-units", "-4"]),
        (["convert", "a", "b", "--stress-unit", "bar"], ["--stress-unit", "'bar'", "kbar"]),
        (["convert", "a", "b", "c\n\x1b[2J"], ["unexpected extra argument", "\\n\\x1b"]),
        (["dataset", "--config", "confg.yaml", "--out", "o"], ["confg.yaml does not exist"]),
    ],
)
def test_a_mistake_is_one_line_with_status_2(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    for word in words:
        assert word in said.err, said.err


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Files, structures and models:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--p", "a", "b", "--flag"], ["a", "b"]),
        (["--flag", "--p", "a b"], ["a b"]),
        (["--flag", "--p"], []),
        (["--p=a", "--flag"], ["a"]),
        (["--p", "--flag"], []),
        (["--p", "a", "--flag", "--p", "b", "c"], ["a", "b", "c"]),
        (["--p=a", "--flag", "--p=b"], ["a", "b"]),
    ],
)
def test_an_option_takes_all_values_up_to_the_next(arguments: list[str], found: list[str]) -> None:
    seen: list[object] = []

    @command()
    @click.option("--p", type=Paths(), required=True)
    @click.option("--flag", is_flag=True)
    def probe(p: list[Path], flag: bool) -> None:
        """Say what came."""
        seen.extend([p, flag])

    probe.main(arguments, standalone_mode=False)
    assert seen == [[Path(name) for name in found], True]


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, "No space left on device", "x.csv"), 2)],
)
def test_what_ends_a_command_early(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(group.commands["schema"], "callback", fail)
    assert main(["schema", "--out", "o"]) == status
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("error", [EOFError("half a file"), RuntimeError("a fault")])
def test_a_fault_of_the_program_keeps_its_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Click takes the end of a file for the user's: it is not, no question was asked."""

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(group.commands["schema"], "callback", fail)
    with pytest.raises(type(error)):
        main(["schema", "--out", "o"])


def test_a_reader_that_leaves_is_no_fault() -> None:
    done = subprocess.run(
        f"{sys.executable} -m workflow_lib --help | head -1",
        shell=True,
        capture_output=True,
        cwd=ROOT,
        check=True,
    )
    assert b"Traceback" not in done.stderr and b"Usage: workflow-lib" in done.stdout


def test_the_shell_completes_commands_and_options() -> None:
    def completed(words: str) -> list[str]:
        environment = {
            **os.environ,
            "_WORKFLOW_LIB_COMPLETE": "bash_complete",
            "COMP_WORDS": f"workflow-lib {words}",
            "COMP_CWORD": str(len(words.split())),
        }
        done = subprocess.run(
            [sys.executable, "-m", "workflow_lib"],
            env=environment,
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert completed("charge-order-") == sorted(name for name in group.commands if "charge-order-" in name)
    assert "--model" in completed("charge-order --m")
