"""Configurations of studies alone: what they may leave out, and what refuses them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from workflow_lib.cli.main import main
from workflow_lib.config import Config
from workflow_lib.config_files import (
    load_config,
    load_studies,
    validate_studies,
)
from workflow_lib.config_runnable import require_runnable
from workflow_lib.core.errors import UserError

ROOT = Path(__file__).parents[2]


def test_studies_alone_keep_off_shared_folders_too() -> None:
    """``make clean`` of such a run would have removed the store of DFT energies."""
    studies = yaml.safe_load((ROOT / "config/chgnet.yaml").read_text())
    with pytest.raises(UserError, match="results/dft is shared by all runs"):
        validate_studies(studies | {"run": "dft"}, "test.yaml")


@pytest.mark.parametrize("stage", ["dynamics", "charge_inference"])
def test_the_potential_of_a_study_is_a_path_that_snakemake_can_use(stage: str) -> None:
    studies = yaml.safe_load((ROOT / "config/chgnet.yaml").read_text())
    studies[stage]["studies"][0]["potential"] = "models/{mine}"
    name = studies[stage]["studies"][0]["name"]
    with pytest.raises(UserError, match=rf"{stage}\.{name}\.potential: .*wildcards, got .*mine") as caught:
        validate_studies(studies, "test.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stage", ["dynamics", "charge_inference"])
def test_a_misspelt_potential_of_a_study_is_refused(stage: str) -> None:
    studies = yaml.safe_load((ROOT / "config/chgnet.yaml").read_text())
    study = studies[stage]["studies"][0]
    study["potential"] = "chgnet-0.2"
    said = (
        rf"{stage}\.{study['name']}\.potential: chgnet-0\.2 is no potential.*did you mean 'chgnet-0\.2\.0'"
    )
    with pytest.raises(UserError, match=said):
        require_runnable(validate_studies(studies, "test.yaml"))


@pytest.mark.parametrize("name", ["chgnet", "chgnet-paper", "charge-dynamics"])
def test_runs_of_studies_alone_are_read_and_read_again(name: str, tmp_path: Path) -> None:
    from workflow_lib.stages.charge_inference.run import neutral_split

    config = load_studies(ROOT / f"config/{name}.yaml")
    assert not isinstance(config, Config)
    assert config.folder == Path("results") / name
    (tmp_path / "config.json").write_text(config.model_dump_json())
    assert load_studies(tmp_path / "config.json") == config
    for study in config.charge_inference.studies if config.charge_inference else ():
        atoms = study.crystal.build(np.random.default_rng(0))
        cells = np.prod(study.crystal.repeat)
        assert len(atoms) == 114 * cells
        assert neutral_split(study, atoms) == 6 * cells
    assert config.dynamics is not None
    systems = {job.system.name: job.system.crystal for job in config.dynamics.trajectories()}
    sizes = {name: len(crystal.build(np.random.default_rng(0))) for name, crystal in systems.items()}
    if name == "charge-dynamics":
        assert sizes == {"half": 26}
        return
    assert sizes["half"] == 140
    assert sizes["stuffed"] == sizes["stoichiometric"] + systems["stuffed"].stuff.count


def test_studies_do_not_train() -> None:
    with pytest.raises(UserError, match="has studies alone") as error:
        load_config(ROOT / "config/chgnet.yaml")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="host: required but missing"):
        validate_studies({"run": "empty"}, "empty.yaml")  # neither kind: told as a run that trains
    wrong = yaml.safe_load((ROOT / "config/chgnet.yaml").read_text())
    wrong["dynamics"]["studies"][0]["temperatures"] = [0]
    with pytest.raises(UserError, match=r"temperatures.*greater than or equal to 1"):
        validate_studies(wrong, "wrong.yaml")
    wrong["dynamics"]["studies"][0]["temperature"] = [0]
    with pytest.raises(UserError, match="temperature"):
        validate_studies(wrong, "wrong.yaml")
    comparison = load_config(ROOT / "config/smoke.yaml")
    assert comparison.dynamics is None


def test_commands_of_a_comparison_refuse_studies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["--config", str(ROOT / "config/chgnet.yaml"), "--out", str(tmp_path / "out")]
    assert main(["dataset", *wanted]) == 2
    assert "has studies alone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    known = ["--study", "nasikon", "--work", str(tmp_path / "work")]
    assert main(["charge-inference", *wanted, *known]) == 2
    assert "nasicon" in capsys.readouterr().err
    assert main(["dynamics", *wanted, "--trajectory", "x", "--work", str(tmp_path)]) == 2
    assert "dynamics has no trajectory 'x'" in capsys.readouterr().err
