"""Let Snakemake decide by the records in the run folder what has to run again.

Snakemake's own notes lie in the folder where it was started and do not go with the results; where
they are missing it takes any result for up to date. Of inputs it looks at the dates first. Here the
records of :mod:`workflow_lib.workflow.made` answer instead, and dates count for nothing.
"""

from __future__ import annotations

import atexit
import sys
from pathlib import Path
from typing import Any

import snakemake.io
import snakemake.workflow
from snakemake.persistence import ParamsChange
from snakemake.persistence.file import FilePersistence
from snakemake.settings.enums import RerunTrigger

from workflow_lib.core.changes import changed_values, named
from workflow_lib.workflow.code import code_stands
from workflow_lib.workflow.made import Made, Record, plain
from workflow_lib.workflow.provenance import made_with

DECIDING = {RerunTrigger.INPUT, RerunTrigger.PARAMS, RerunTrigger.CODE}


def records_decide(run: Path) -> None:
    """Make Snakemake keep and compare the records of the run folder ``run``.

    To be called in the Snakefile, which is read before Snakemake makes its store of notes. A call
    that asks for other triggers (``--rerun-triggers mtime``) gets Snakemake's own store.
    """

    def store(*arguments: Any, dag: Any, **named: Any) -> FilePersistence:
        if not set(dag.workflow.rerun_triggers) >= DECIDING:
            return FilePersistence(*arguments, dag=dag, **named)
        snakemake.io._IOFile.is_newer = _never
        made = Made(run)
        if dag.workflow.is_main_process:
            atexit.register(made.checksums.remember)
        return RecordedPersistence(made, *arguments, dag=dag, **named)

    snakemake.workflow.FilePersistence = store  # type: ignore[misc,assignment]


async def _never(file: Any, time: float) -> bool:
    return False


def _name(job: Any) -> str:
    """Return the name of a job in messages."""
    return " ".join([job.rule.name, *job.wildcards_dict.values()])


class RecordedPersistence(FilePersistence):
    """Snakemake's store of notes, whose answers on what changed come from the records of a run."""

    def __init__(self, made: Made, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.made = made
        self.max_checksum_file_size = 0  # the records hold checksums, each file is read once
        self._said: set[str] = set()
        self._inputs: dict[str, dict[str, str | None]] = {}

    def started(self, job: Any, external_jobid: str | None = None) -> None:
        """Note that a job begins, and its inputs: what it leaves if it is killed counts for nothing."""
        self.made.forget(job.rule.name, dict(job.wildcards_dict))
        if job.output and self.dag.workflow.is_main_process:
            self._inputs[_name(job)] = self.made.of(job.input)
            made_with()  # the commit is that of the start, whatever is committed meanwhile
        super().started(job, external_jobid)

    async def finished(self, job: Any) -> None:
        """Note that a job has ended, and what made its outputs.

        Nothing is noted if an input, or the code, is no longer what it was at the start: which of the
        two the job read is unknown, so it runs again.
        """
        await super().finished(job)
        if job.output and self.dag.workflow.is_main_process:
            outputs, inputs = self.made.of(job.output), self.made.of(job.input)
            if None in outputs.values():  # it failed, and Snakemake removes what it left
                return
            begun = self._inputs.pop(_name(job), inputs)  # files that --touch accepts were read by no job
            replaced = [path for path in inputs if inputs[path] != begun.get(path)]
            params = plain(dict(job.params.items()))
            if (code := params.get("code")) and not code_stands(code):
                replaced.append("its code")
            if replaced:
                print(
                    f"{_name(job)} must run again: {', '.join(replaced)} changed while it ran; give the "
                    "same command once more",
                    file=sys.stderr,
                )
                return
            self.made.write(
                Record(
                    rule=job.rule.name,
                    wildcards=dict(job.wildcards_dict),
                    command=job.rule.shellcmd,
                    params=params,
                    inputs=inputs,
                    outputs=outputs,
                    made_with=made_with(),
                )
            )

    def has_metadata(self, job: Any) -> bool:
        """Return true: a job without a record is one whose code is unknown."""
        return True

    def has_outdated_metadata(self, job: Any) -> bool:
        """Return false: records have no versions."""
        return False

    def params_changed(self, job: Any, file: Any = None) -> ParamsChange:
        """Return the parameters that are not those of the record; says them."""
        record = self._record(job)
        if record is None:
            return ParamsChange()
        differences = changed_values(record.params, plain(dict(job.params.items())))
        self._say(job, differences)
        return ParamsChange(only_new=set(differences), files=set(job.output) if differences else set())

    def input_changed(self, job: Any, file: Any = None) -> list[str]:
        """Return sentences on inputs that differ from the record, by name or content; says them."""
        record = self._record(job)
        return [] if record is None else self._say(job, self.made.changed_inputs(record, job.input))

    def code_changed(self, job: Any, file: Any = None) -> list[str]:
        """Return why the outputs are not those of the present command; says it."""
        record = self._record(job)
        if not job.output:
            return []
        if record is None:
            there = any(Path(path).exists() for path in job.output)
            return self._say(job, ["no record says what made its results"] if there else [])
        if record.command != job.rule.shellcmd:
            return self._say(job, ["its command is another"])
        return self._say(job, self.made.changed_outputs(record, job.output))

    def software_stack_changed(self, job: Any, file: Any = None) -> list[str]:
        """Return nothing: all rules run in the environment of Snakemake."""
        return []

    def _record(self, job: Any) -> Record | None:
        return self.made.record(job.rule.name, dict(job.wildcards_dict)) if job.output else None

    def _say(self, job: Any, sentences: list[str]) -> list[str]:
        """Print once why a job runs again, and return the reasons."""
        line = f"{_name(job)} runs again: {named(sentences)}"
        if sentences and line not in self._said:
            self._said.add(line)
            print(line, file=sys.stderr)
        return sentences
