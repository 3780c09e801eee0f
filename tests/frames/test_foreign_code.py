"""Files are data: no checkpoint, structure or table runs code, and the library has no call that would."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import sha256
from workflow_lib.frames.foreign import read_frames
from workflow_lib.frames.reading.run import read_sources
from workflow_lib.frames.structure import read_structure
from workflow_lib.models import chgnet
from workflow_lib.models.hyperparameters import ChgnetHyperparameters, MaceHyperparameters
from workflow_lib.models.trained import SCHEMA, TrainedModel
from workflow_lib.stages.training.checkpoint import CheckpointStore

LIBRARY = Path(__file__).parents[2] / "workflow_lib"


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is there once foreign code has run; the bomb is tried first."""
    path = tmp_path / "INJECTED"
    pickle.loads(pickle.dumps(Bomb(path)))
    assert path.exists(), "the bomb is a dud"
    path.unlink()
    return path


def card(**changes: object) -> str:
    values = {
        **{"schema": SCHEMA, "name": "x", "family": "painn", "init": "scratch", "status": "ok"},
        **{"hyperparameters": {"n_atom_basis": 4, "n_interactions": 1}, "redox_embedding": "none"},
        **{"species": {"labels": [8, 26], "physical": {"8": 8, "26": 26}}, "energy_reference": "x"},
        "training": {"steps": 0},
    }
    return json.dumps(values | changes)


def test_a_model_of_pickles(tmp_path: Path, mark: Path) -> None:
    tensors = tmp_path / "model.safetensors"
    torch.save({"weights": Bomb(mark)}, tensors)
    (tmp_path / "card.json").write_text(card(tensors_sha256=sha256(tensors)))
    with pytest.raises(UserError, match="no safetensors file"):
        TrainedModel.load(tmp_path)
    tensors.write_bytes(pickle.dumps(Bomb(mark)))
    (tmp_path / "card.json").write_text(card(tensors_sha256=sha256(tensors)))
    with pytest.raises(UserError, match="no safetensors file"):
        TrainedModel.load(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"family": "os:system"}, "names the family"),
        ({"family": "../../evil:Model"}, "names the family"),
        ({"hyperparameters": {"mlp_irreps": "__import__('os')"}, "family": "mace"}, "does not describe"),
        ({"hyperparameters": {"pretrained": "../../evil"}, "family": "chgnet"}, "does not describe"),
        ({"hyperparameters": {"interaction": "os.system"}, "family": "mace"}, "does not describe"),
        ({"hyperparameters": {"dtype": "load"}}, "does not describe"),
        ({"species": {"labels": ["8; x"], "physical": {}}}, "does not describe"),
        ({"redox_embedding": "surrogate", "redox": "$(x)"}, "does not describe"),
    ],
)
def test_a_hostile_card(changes: dict, words: str, tmp_path: Path) -> None:
    tensors = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1)}, tensors)
    (tmp_path / "card.json").write_text(card(tensors_sha256=sha256(tensors), **changes))
    with pytest.raises(UserError, match=words) as caught:
        TrainedModel.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_shipped_weights_are_the_listed_ones_or_not_opened(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pretrained in chgnet.SHIPPED:
        arguments, _ = chgnet._shipped(ChgnetHyperparameters(pretrained=pretrained))
        assert arguments["atom_fea_dim"] == 64
    folder = tmp_path / "pretrained/0.3.0"
    folder.mkdir(parents=True)
    torch.save({"model": Bomb(mark)}, folder / "evil.pth.tar")
    monkeypatch.setattr(chgnet, "files", lambda _: tmp_path)
    with pytest.raises(UserError, match=r"is not the published chgnet 0\.3\.0") as caught:
        chgnet._shipped(ChgnetHyperparameters())
    assert "\n" not in str(caught.value)
    # Behind the checksum there is a second lock: tensors and plain values only.
    listed = {"0.3.0": sha256(folder / "evil.pth.tar")}
    monkeypatch.setattr(chgnet, "SHIPPED", listed)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # mace sets this when it is imported
    with pytest.raises(pickle.UnpicklingError):
        chgnet._shipped(ChgnetHyperparameters())
    assert not mark.exists()


def test_no_hyperparameter_names_a_file() -> None:
    for hyperparameters in (ChgnetHyperparameters, MaceHyperparameters):
        free = {name for name, field in hyperparameters.model_fields.items() if field.annotation is str}
        assert free <= {"mlp_irreps"}  # its pattern allows a number and x0e


def test_a_checkpoint_with_code_in_it(tmp_path: Path, mark: Path) -> None:
    store = CheckpointStore(tmp_path / "work", {"test": 1})
    path = store.save(1, {"good": torch.zeros(1)})
    torch.save({"bad": Bomb(mark)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    path.rename(path.with_name(f"epoch000002-{digest}.pt"))
    # Refused or passed over like a damaged one: that is the trainer's choice.
    with contextlib.suppress(pickle.UnpicklingError, UserError):
        store.load()
    assert not mark.exists()


@pytest.mark.parametrize("name", ["x.py", "x.pckl", "x.traj", "x.json", "x.db", "x.xyz", "x.cif", "POSCAR"])
def test_a_structure_with_code_in_it(name: str, tmp_path: Path, mark: Path) -> None:
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\natoms = None\n"
    for content in (pickle.dumps(Bomb(mark)), code.encode()):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as caught:
            read_structure(tmp_path / name)
        assert "\n" not in str(caught.value)
        if name != "POSCAR":
            with pytest.raises(UserError):
                read_frames(tmp_path / name)
            with pytest.raises(UserError):
                read_sources([str(tmp_path / name)], tmp_path / "out")
    assert not mark.exists()


def test_expressions_in_a_comment_line_are_text(tmp_path: Path, mark: Path) -> None:
    evil = f"__import__('pathlib').Path('{mark}').touch()"
    comment = f'Lattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3 energy="{evil}" x="_JSON {evil}"'
    (tmp_path / "x.xyz").write_text(f"1\n{comment}\nNa 0 0 0\n")
    for read in (read_structure, read_frames):
        try:
            read(tmp_path / "x.xyz")
        except UserError as error:
            assert "\n" not in str(error)
    assert not mark.exists()


# The code -----------------------------------------------------------------------------------------------

FORBIDDEN = {
    *("eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "joblib.load", "yaml.load"),
    *("yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "pandas.read_pickle", "tempfile.mktemp"),
    *("torch.hub.load", "torch.jit.load", "marshal.loads", "shelve.open", "subprocess.getoutput"),
}
CALLS = {"subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_output"}


def _name(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


@pytest.mark.parametrize("file", sorted(LIBRARY.rglob("*.py")), ids=lambda file: file.name)
def test_no_call_that_runs_code_from_files(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name, options = _name(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        where = f"{file}:{node.lineno}: {name}"
        assert name not in FORBIDDEN and not name.endswith(("read_pickle", "extractall")), where
        if name == "torch.load":
            assert options.get("weights_only") == "True", where
        if name.startswith("np.") or name.startswith("numpy."):
            assert options.get("allow_pickle", "False") == "False", where
        if name in CALLS:
            assert "shell" not in options, where
            assert not isinstance(node.args[0], ast.JoinedStr | ast.Constant), where


def test_temporary_files_are_beside_their_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that others cannot write to, not under a name in /tmp that can be guessed."""
    from workflow_lib.core.io import atomic_path

    monkeypatch.setenv("TMPDIR", os.devnull)
    with atomic_path(tmp_path / "x.json") as temporary:
        assert temporary.parent == tmp_path
