"""The benchmark of the dataset stage counts what it made: the stage must find every damaged frame."""

import json

import pytest

from benchmarks import dataset


def in_process(run, path, count, warm):
    return run(path, count), 1.0, 1.0, 1.0


def test_the_stage_finds_as_many_frames_of_each_sort_as_were_made(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(dataset, "measure", in_process)
    dataset.main(["--frames", "205", "--folder", str(tmp_path)])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["frames"] == 205
    assert line["atoms_per_frame"] == pytest.approx(69, abs=6)  # about as in the public data


def test_another_number_stops_it(monkeypatch, tmp_path):
    monkeypatch.setattr(dataset, "measure", in_process)
    monkeypatch.setattr(dataset, "subset", lambda path, count: 0)
    with pytest.raises(RuntimeError, match="subset: 0 found"):
        dataset.main(["--frames", "20", "--folder", str(tmp_path)])
