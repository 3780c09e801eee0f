"""Every fenced command of the documents: run here, run elsewhere in CI, or of a kind that CI cannot run.

A command that no table below names fails, and so does a line of a table that no document has.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from ase.build import bulk
from ase.io import write
from charge_order_toy import register, save_toy
from fenced import ROOT, blocks, commands
from naming import naming
from sealed import write_sealed

from workflow_lib.__main__ import main
from workflow_lib.config_files import load_config
from workflow_lib.core.io import write_json
from workflow_lib.dft.level import EMBEDDED
from workflow_lib.frames.frame import Frame, frame_to_atoms
from workflow_lib.frames.table import write_parquet
from workflow_lib.lattice.host import Host

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md"]
DOCUMENTS += sorted(ROOT.glob("docs/**/*.md"))
TUTORIAL = ROOT / "docs/own-material.md"
MODEL = "results/demo/training/painn-entropy-f0-s1"

HERE = [
    "workflow-lib --help",
    "workflow-lib check --config config/smoke.yaml",
    "workflow-lib convert resources/naxfepo4-gpaw/frames.parquet frames.extxyz",
    "workflow-lib predict chgnet-0.3.0 frames.extxyz",
    "workflow-lib relax chgnet-0.3.0 frames.extxyz relaxed.extxyz --max-steps 10",
    f"workflow-lib predict {MODEL} structure.cif --assign search --json",
    f"workflow-lib relax {MODEL} structure.cif relaxed.extxyz --assign search",
    f"workflow-lib evaluate {MODEL} resources/naxfepo4-gpaw/frames.parquet --unseen",
    "workflow-lib predict chgnet-r2scan structure.cif",
    "workflow-lib relax ase.calculators.emt:EMT start.extxyz relaxed.extxyz",
    'workflow-lib convert my.extxyz my.parquet --energy-reference "VASP/PBE+U(Fe 5.3)/PAW520/3x5x7"',
    "workflow-lib read --in DIR 'more/*.xyz' --out OUT --jobs 4 "
    '--energy-reference "VASP/PBE+U(Fe 5.3)/PAW520"',
    ".venv/bin/workflow-lib dft-plan --pending results/demo/search/pending.csv --out jobs.jsonl",
    ".venv/bin/workflow-lib dft-status",
]
"""In this order, in one folder: what one writes the next may read."""
IN_CI = {
    "make test": "make test",
    "make lint": "make lint",
    "make venv": "make lint",  # every target makes the environment first
    ". .venv/bin/activate": "make lint",
    "pytest tests/lattice": "make test",
    "make slurm-setup": "make slurm-setup",
    "make test-slurm": "make test-slurm",
    "python tests/slurm/cluster.py bash": "make slurm-setup",  # which starts it with `true`
    "make dft-setup": "make dft-setup",
    # tests/workflow: test_workflow.py runs the smoke configuration, test_rehearsal.py plans the paper's
    "snakemake --configfile config/smoke.yaml --cores all": "make test",
    "snakemake --configfile config/paper.yaml --workflow-profile profiles/slurm --dry-run": "make test",
}
"""Commands by what `.ci/run` calls to run them."""
NOT_IN_CI = {
    "mkdir -p results/dft && for f in store store-pw800; do "
    "tar xJf resources/naxfepo4-gpaw/$f.tar.xz -C results/dft; done": "a shell; only unpacks",
    "make demo": "half an hour; its stages run in small with config/smoke.yaml",
    "make demo CONFIG=config/chgnet.yaml": "hours; tests/stages runs the same stages in small",
    "snakemake --configfile config/charge-dynamics.yaml --cores 2": "hours; tests/stages/dynamics",
    "snakemake --configfile config/table-1.yaml --cores 2 --until ablation": "hours; tests/stages/ablation",
    "make demo CONFIG=config/phase-diagram.yaml": "hours; tests/stages runs the same stage in small",
    **{
        f"snakemake --configfile config/{name}.yaml --workflow-profile profiles/slurm": "a cluster, GPUs"
        for name in ("paper", "chgnet-paper")
    },
    "tmux": "a terminal",
    "OMP_NUM_THREADS=1 .venv/bin/workflow-lib dft-run --jobs jobs.jsonl": "hours; `make test-dft "
    "DFT=quick` takes one frame",
    "pip install --no-deps snakemake-logger-plugin-rich==0.5.1": "an optional package outside the lock",
    "snakemake --logger rich ...": "the same package",
    "python benchmarks/costs.py --device cuda": "a GPU",
    "workflow-lib export results/paper/training/mace-baseline-f0-s711 mace.model": "tests/models",
    "pip install symmetrix-xl": "an optional package outside the lock",
    "symmetrix_extract_mace --model mace.model --output mace.json": "the same package; tests/models",
    **{
        f"python benchmarks/{name}": "minutes on an idle machine; tests/benchmarks tests its means"
        for name in (
            *("training.py", "relaxation.py", "planning.py", "reading.py", "cleaning.py", "costs.py"),
            *(
                "sampling.py",
                "casm_sampling.py --peer PYTHON",
                "leakage.py",
                "screening.py --model FOLDER",
                "relaxation.py --converge --family chgnet",
                *("dynamics.py", "native_mace.py", "skin.py"),
                "training.py --family mace --epochs 50 --seeds 5",
            ),
        )
    },
}
"""Commands by what they need that CI has not."""


def test_every_fenced_command_is_accounted_for() -> None:
    found = {
        line
        for page in DOCUMENTS
        if page != TUTORIAL  # test_tutorial.py runs all of it
        for block in blocks(page)
        if block.language in ("bash", "sh", "console")
        for line in commands(block)
    }
    tables = [*HERE, *IN_CI, *NOT_IN_CI]
    assert len(tables) == len(set(tables))
    assert found - set(tables) == set(), "in no table"
    assert set(tables) - found == set(), "in no document"


def test_commands_stand_in_blocks_that_say_so() -> None:
    """A command in a block without a language would escape the tables."""
    for page in DOCUMENTS:
        for block in blocks(page):
            if block.language not in ("bash", "python", "yaml"):
                called = r"^(?:make|workflow-lib|snakemake|pip|python) "
                assert not re.search(called, block.text, re.MULTILINE)


def test_ci_calls_what_the_table_says() -> None:
    called = (ROOT / ".ci/run").read_text()
    for target in {*IN_CI.values(), "make test-tutorial", "make docs", "make test-dft DFT=quick"}:
        assert re.search(rf"\b{target}(?=\s|;|$)", called), target


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, host: Host, frames: list[Frame]) -> Iterator[Path]:
    """A folder with the files that the documents' commands read: those of a reader after `make demo`."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("resources", "config"):
        (folder / name).symlink_to(ROOT / name)
    rule = load_config(ROOT / "config/config.yaml").redox
    reference = EMBEDDED.energy_reference
    save_toy(folder / MODEL, rule, "surrogate", energy_reference=reference)
    rows = {"id": ["painn-entropy-f0-s1"], "family": ["painn"], "variant": ["entropy"]}
    write_sealed("comparison", folder / "results/demo/comparison", pd.DataFrame(rows))
    configuration = load_config(ROOT / "config/config.yaml").model_dump(mode="json")
    write_json(folder / "results/demo/config.json", configuration | naming("painn-entropy-f0-s1"))
    (folder / "results/smoke").symlink_to(folder / "results/demo")
    trained = pd.DataFrame({"frame_id": [f.frame_id for f in frames[:9]], "set": "train"})
    write_sealed("training/frames", folder / MODEL, trained)
    write_parquet(frames, folder / "results/demo/dataset/frames.parquet")
    (folder / "results/demo/search").mkdir()
    asked = pd.read_csv(ROOT / "docs/results/demo/pending.csv").head(2)
    asked.to_csv(folder / "results/demo/search/pending.csv", index=False)
    write(folder / "structure.cif", host.full_cell(1.0))
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.05, seed=1)
    write(folder / "start.extxyz", copper)
    some = [frame_to_atoms(frame) for frame in frames[:3]]
    for atoms in some:
        atoms.info.pop("energy_reference", None)
    write(folder / "my.extxyz", some)
    for place in ("DIR/a.extxyz", "more/b.xyz"):
        (folder / place).parent.mkdir()
        write(folder / place, some[:2] if place.startswith("DIR") else some[2:], format="extxyz")
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        yield folder


def test_commands_of_the_documents_run(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(desk)
    for line in HERE:
        program, *arguments = shlex.split(line)
        assert Path(program).name == "workflow-lib"
        status = main(arguments)
        said = capsys.readouterr()
        assert status == 0, f"{line}\n{said.err}"
        assert said.out, line
    assert (desk / "relaxed.extxyz").stat().st_size > 500
    assert len((desk / "jobs.jsonl").read_text().splitlines()) >= 2
    assert pd.read_parquet(desk / "my.parquet")["energy_reference"].unique() == [
        "VASP/PBE+U(Fe 5.3)/PAW520/3x5x7"
    ]


@pytest.mark.parametrize("name", ["README.md", "docs/start.md"])
def test_python_of_the_documents_runs(
    name: str, desk: Path, monkeypatch: pytest.MonkeyPatch, host: Host
) -> None:
    monkeypatch.chdir(desk)
    atoms = host.full_cell(1.0)
    atoms.set_array("oxidation_states", np.where(atoms.numbers == 26, 2, 0))
    code = [block.text for block in blocks(ROOT / name) if block.language == "python"]
    assert code
    for text in code:
        exec(text, {"atoms": atoms})
    if name == "README.md":
        assert np.isfinite(atoms.get_potential_energy())


@pytest.mark.parametrize("name", ["docs/data.md", "docs/models.md"])
def test_yaml_of_the_documents_is_a_configuration(name: str, tmp_path: Path) -> None:
    """Each piece, put on top of the smoke configuration."""
    pieces = [block.text for block in blocks(ROOT / name) if block.language == "yaml"]
    assert pieces
    for number, text in enumerate(pieces):
        config = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
        for key, value in yaml.safe_load(text).items():
            config[key] = config.get(key, {}) | value if isinstance(value, dict) else value
        if "sources" in config:
            del config["dataset"]["path"]
            config["sources"] |= {"table": str(ROOT / "config/sources.yaml")}
        if config["dataset"].get("split_by") == "frame":
            del config["dataset"]["folds"]
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(config))
        load_config(path)
