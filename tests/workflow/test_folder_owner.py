"""A run never writes into the folder of another user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workflow_lib.core.errors import UserError
from workflow_lib.workflow import folder_owner
from workflow_lib.workflow.folder_owner import require_own


def become(uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_owner.os, "geteuid", lambda: uid)


def test_own_and_new_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    become(tmp_path.stat().st_uid or 1, monkeypatch)
    if tmp_path.stat().st_uid == 0:
        os.chown(tmp_path, 1, -1)
    require_own(tmp_path)
    require_own(tmp_path / "results/new")
    require_own(str(tmp_path))


def test_the_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "results/demo"
    folder.mkdir(parents=True)
    folder.chmod(0o777)  # that others may write does not make it theirs
    become(folder.stat().st_uid + 4242, monkeypatch)
    with pytest.raises(
        UserError, match=r"results/demo belongs to .*you are user \d+; choose another `run`"
    ) as e:
        require_own(folder)
    assert "\n" not in str(e.value)
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(UserError, match="belongs to"):
        require_own(link)
    become(0, monkeypatch)
    require_own(folder)


def test_a_place_that_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    become(tmp_path.stat().st_uid + 4242, monkeypatch)
    monkeypatch.setattr(folder_owner.os, "access", lambda *_: False)
    with pytest.raises(UserError, match=r"cannot be written: .* is closed to"):
        require_own(tmp_path / "results/new")


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("")
    with pytest.raises(UserError, match="is a file"):
        require_own(tmp_path / "demo")
