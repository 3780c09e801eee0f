"""The store of calculations: append-only, one writer, nothing lost to kills or full disks."""

import errno
import fcntl
import json
import multiprocessing
import signal
import subprocess
import sys
import textwrap
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.jobs import run_jobs
from workflow_lib.dft.level import EMBEDDED, Level
from workflow_lib.dft.store import Store, _encode


def calculation(name="oxide", shift=0.0, **changes) -> Calculation:
    content = {
        "name": name,
        "group": "FeO",
        "kind": "single",
        "task": "single",
        "numbers": np.array([26, 8]),
        "positions": np.array([[0.0, 0, 0], [2.1 + shift, 0, 0]]),
        "cell": 2.1 * (1 - np.eye(3)),
        "oxidation_states": np.array([2, 0]),
        "level": EMBEDDED,
        "formula_units": 1,
    }
    return Calculation(**(content | changes))


def frame(energy: float) -> dict:
    return {
        "positions": [[0, 0, 0], [2.1, 0, energy]],
        "energy": energy,
        "forces": [[0, 0, 0]] * 2,
        "seconds": 1.0,
    }


def write(store: Store, energies, end=None) -> None:
    with store.writing(calculation()) as log:
        for energy in energies:
            log.frame(frame(energy))
        if end:
            log.end(*end)


def test_a_calculation_comes_back_with_its_frames_and_outcome(tmp_path):
    store = Store(tmp_path)
    assert store.get(calculation()).status == "missing"
    write(store, [-1.0, -2.0], ("failed", "collapsed to Fe 3"))
    record = store.get(calculation())
    assert (record.status, record.reason, record.attempts) == ("failed", "collapsed to Fe 3", 1)
    assert [f["energy"] for f in record.frames] == [-1.0, -2.0]
    assert record.calculation.to_json() == calculation().to_json()


def test_an_interrupted_calculation_goes_on_after_its_last_frame(tmp_path):
    store = Store(tmp_path)
    write(store, [-1.0])
    assert store.get(calculation()).status == "interrupted"
    write(store, [-2.0], ("done",))
    record = store.get(calculation())
    assert (record.status, record.attempts, len(record.frames)) == ("done", 2, 2)


def test_a_geometry_computed_again_takes_the_place_of_the_last_one(tmp_path):
    """Steps of a relaxation are counted once; the log keeps both, and what was imported stays."""
    store = Store(tmp_path)
    cell = [[4, 0, 0], [0, 4, 0], [0, 0, 4]]
    there, on = ({**frame(energy), "cell": cell} for energy in (-1, -2))
    with store.writing(calculation()) as log:
        for content in ({**there, "imported": "earlier set"}, there, on, {**on, "energy": -2.5}):
            log.frame(content)
        live = [f["energy"] for f in log.record.frames]
    record = store.get(calculation())
    assert [f["energy"] for f in record.frames] == live == [-1, -1, -2.5]
    assert store.path(calculation()).read_text().count('"type": "frame"') == 4
    series = calculation(task="series", series=np.zeros((2, 2, 3)))
    with store.writing(series) as log:
        log.frame(on)
        log.frame(on)
    assert len(store.get(series).frames) == 2  # counted: the next one to compute is the third


def test_a_done_calculation_is_opened_without_a_new_attempt(tmp_path):
    store = Store(tmp_path)
    write(store, [-1.0], ("done",))
    before = store.path(calculation()).read_bytes()
    with store.writing(calculation()) as log:
        assert log.record.status == "done"
    assert store.path(calculation()).read_bytes() == before


@pytest.mark.parametrize("cut", [1, 7, 60])
def test_a_line_cut_short_is_dropped_and_the_rest_kept(tmp_path, cut):
    store = Store(tmp_path)
    write(store, [-1.0, -2.0])
    path = store.path(calculation())
    path.write_bytes(path.read_bytes()[:-cut])
    assert [f["energy"] for f in store.get(calculation()).frames] == [-1.0]
    write(store, [-3.0], ("done",))
    assert [f["energy"] for f in store.get(calculation()).frames] == [-1.0, -3.0]


def test_a_damaged_line_inside_is_an_error_that_names_it(tmp_path):
    store = Store(tmp_path)
    write(store, [-1.0, -2.0])
    path = store.path(calculation())
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"-1.0", b"-9.0")
    path.write_bytes(b"".join(lines))
    with pytest.raises(UserError, match="line 2 is damaged"):
        store.get(calculation())


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "end", "status": "failed", "status": "done", "reason": null}',
        '{"type": "frame", "energy": NaN}',
        '["type"]',
        "{}",
    ],
)
def test_a_line_that_readers_take_differently_is_damaged_under_a_checksum_that_fits(tmp_path, text):
    store = Store(tmp_path)
    write(store, [-1.0])
    path = store.path(calculation())
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"%08x %s\n" % (zlib.crc32(text.encode()), text.encode()) + second)
    with pytest.raises(UserError, match="line 2 is damaged"):
        store.get(calculation())


def test_a_renamed_log_is_noticed(tmp_path):
    store = Store(tmp_path)
    write(store, [-1.0], ("done",))
    other = calculation(shift=0.01)
    store.path(calculation()).rename(store.path(other))
    with pytest.raises(UserError, match="another calculation"):
        store.get(other)


def test_a_second_writer_is_turned_away_and_a_reader_sees_running(tmp_path):
    store = Store(tmp_path)
    with store.writing(calculation()) as log:
        log.frame(frame(-1.0))
        # Locks belong to open files: a second open in this process meets them like another process.
        with pytest.raises(UserError, match="another process"), store.writing(calculation()):
            pass
        assert store.get(calculation()).status == "running"
    assert len(store.get(calculation()).frames) == 1


def test_a_calculation_begun_elsewhere_is_left_to_the_other(tmp_path, monkeypatch):
    """Also one that was free when looked at: two workers with one list reach it at the same time."""
    level = Level(code="VASP", cutoff=520, kpoints=(1, 1, 1))
    wanted = calculation(level=level)
    request = {"formal_charges": {"Fe": 2, "O": -2}}
    with Store(tmp_path).writing(wanted):
        assert run_jobs([wanted], Store(tmp_path), **request).running == ["oxide"]
        monkeypatch.setattr("workflow_lib.dft.store.Store.read", lambda *_: None)
        assert run_jobs([wanted], Store(tmp_path), **request).running == ["oxide"]


def _compete(root, number):
    store = Store(root)
    for shift in np.arange(20) * 0.001:
        wanted = calculation(shift=shift)
        try:
            with store.writing(wanted) as log:
                if log.record.status != "done":
                    log.frame(frame(-float(number)))
                    log.end("done")
        except UserError:
            continue


def test_many_processes_on_one_store_do_each_calculation_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_compete, args=(tmp_path, n)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    records = list(Store(tmp_path).records())
    assert len(records) == 20
    assert all(record.status == "done" and len(record.frames) == 1 for record in records)


def test_a_killed_writer_leaves_whole_frames_and_no_lock(tmp_path):
    script = textwrap.dedent(
        f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_store import Store, calculation, frame
        with Store({str(tmp_path)!r}).writing(calculation()) as log:
            energy = 0.0
            while True:
                energy -= 1.0
                log.frame(frame(energy)); print(energy, flush=True)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGKILL)
    said += process.stdout.readlines()
    process.wait()
    frames = Store(tmp_path).get(calculation()).frames
    # What was reported as written is there; at most one more frame was on its way.
    assert len(said) <= len(frames) <= len(said) + 1
    assert [f["energy"] for f in frames] == [-float(n) for n in range(1, len(frames) + 1)]
    write(Store(tmp_path), [0.0], ("done",))


def test_a_full_disk_is_one_line_and_leaves_the_log_intact(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        store = Store(disk)
        with pytest.raises(UserError, match="No space left"), store.writing(calculation()) as log:
            for energy in range(400):
                log.frame(frame(float(energy)))
        frames = store.get(calculation()).frames
        assert 10 < len(frames) < 400
        assert frames[-1]["energy"] == len(frames) - 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="choose another store"),
        Store(tmp_path / "file").writing(calculation()),
    ):
        pass


def test_reading_does_not_disturb_a_writer(tmp_path, monkeypatch):
    """A writer that meets a reader's lock waits for it, and no longer."""
    store, waits = Store(tmp_path), []
    write(store, [-1.0])
    with store.path(calculation()).open("rb") as handle:

        def reader_ends(seconds: float) -> None:
            waits.append(seconds)
            fcntl.flock(handle, fcntl.LOCK_UN)

        monkeypatch.setattr("workflow_lib.dft.store.time.sleep", reader_ends)
        fcntl.flock(handle, fcntl.LOCK_SH)
        assert store.get(calculation()).status == "interrupted"
        write(store, [-2.0], ("done",))
    assert len(waits) == 1
    assert json.loads(store.path(calculation()).read_bytes().split(b" ", 1)[1].split(b"\n")[0])


def test_a_relaxation_out_of_steps_goes_on_once_where_more_are_asked_for(tmp_path):
    few, many = (calculation(task="relaxation", max_steps=steps) for steps in (80, 300))
    store = Store(tmp_path)
    with store.writing(few) as log:
        log.frame(frame(-1.0))
        log.end("failed", "forces above 0.05 eV/A after 80 steps")
    assert few.digest == many.digest
    assert store.get(few).status == "failed"
    assert store.get(many).status == "interrupted"
    with store.writing(many) as log:
        assert len(log.record.frames) == 1
        log.end("failed", "forces above 0.05 eV/A after 300 steps")
    record = store.get(many)
    assert (record.status, record.attempts, record.calculation.max_steps) == ("failed", 2, 300)


@pytest.mark.parametrize(
    "reason", ["not self-consistent after 120 iterations", "collapsed to Fe 2 2 3 3 in 80 steps"]
)
def test_another_failure_stays_one_however_many_steps_are_asked_for(tmp_path, reason):
    store = Store(tmp_path)
    with store.writing(calculation(task="relaxation", max_steps=80)) as log:
        log.end("failed", reason)
    assert store.get(calculation(task="relaxation", max_steps=300)).status == "failed"


def test_an_answer_without_the_stress_that_is_asked_for_is_refused_in_one_line(tmp_path):
    store, plain = Store(tmp_path), calculation(stress=False)
    with store.writing(plain) as log:
        log.frame({**frame(-1.0), "stress": None})
        log.end("done")
    assert store.get(plain).status == "done"
    for use in (store.get, lambda asked: store.writing(asked).__enter__()):
        with pytest.raises(UserError, match=r"jsonl holds no stress, .* move it away to have it computed$"):
            use(calculation(stress=True))


def test_what_is_known_to_have_failed_needs_no_engine(tmp_path, monkeypatch):
    """Nothing is computed, so neither GPAW nor pybader has to be there."""
    asked = []
    monkeypatch.setattr("workflow_lib.dft.engines.gpaw.installed.require_all", asked.extend)
    monkeypatch.setattr("workflow_lib.dft.jobs._compute", lambda *_: None)
    store, wanted = Store(tmp_path), calculation()
    with store.writing(wanted) as log:
        log.end("failed", "collapsed to Fe 3")
    request = {"formal_charges": {"Fe": 2, "O": -2}}
    assert run_jobs([wanted], store, **request).failed == ["oxide"] and not asked
    run_jobs([wanted], store, **request, retry_failed=True)
    assert asked == [wanted]


def test_an_answer_is_judged_again_where_other_windows_tell_the_charge_states(tmp_path):
    """One that was taken for Fe2+ by a window too wide stayed an answer after the correction."""
    store, wide = Store(tmp_path), {"Fe2": (3.0, 3.9)}
    with store.writing(calculation(windows=wide)) as log:
        log.frame(frame(-1.0) | {"magmoms": [3.2, 0.0], "stress": [[0.0] * 3] * 3})
        log.end("done")
    assert store.get(calculation(windows=wide)).status == "done"
    assert store.get(calculation(windows={"Fe2": (3.1, 3.7)})).status == "done"
    with pytest.raises(UserError, match=r"by the windows of moments of now it has collapsed to Fe \?"):
        store.get(calculation())
    other = calculation(shift=0.01, windows={"Fe2": (3.7, 3.9)})
    with store.writing(other) as log:
        log.end("failed", "collapsed to Fe ? (wanted Fe 2)")
    assert store.get(other).status == "failed"
    corrected = replace(other, windows=wide)
    assert store.get(corrected).status == "interrupted"  # to be tried again
    with store.writing(corrected) as log:
        log.end("failed", "collapsed to Fe 3 (wanted Fe 2)")
    assert store.get(corrected).status == "failed" and store.get(corrected).calculation.windows == wide
    foreign = replace(corrected, windows=wide | {"Cr3": (2.6, 3.1)})
    assert store.get(foreign).status == "failed"  # that of an ion which it does not have changes nothing
    third = calculation(shift=0.02, windows={"Fe2": (3.7, 3.9)})
    with store.writing(third) as log:
        log.lost(0, third.positions, "not self-consistent after 100 iterations")
        log.lost(1, third.positions, "collapsed to Fe ? (wanted Fe 2)")
    assert [entry["fallback"] for entry in store.get(third).lost] == [0, 1]
    corrected = replace(third, windows=wide)
    assert [entry["fallback"] for entry in store.get(corrected).lost] == [0]
    for _ in range(2):  # also where the corrected one is interrupted once more
        with store.writing(corrected) as log:
            assert [entry["fallback"] for entry in log.record.lost] == [0]


def test_windows_that_once_were_accepted_make_no_store_unreadable(tmp_path):
    store, plain = Store(tmp_path), calculation()
    content = plain.to_json() | {"windows": {"Cr3": [3.1, 2.6]}}
    store.path(plain).write_bytes(
        b"".join(
            _encode(entry)
            for entry in (
                {"type": "begin", "calculation": content},
                {"type": "frame", **frame(-1.0), "stress": [[0.0] * 3] * 3},
                {"type": "end", "status": "done", "reason": None},
            )
        )
    )
    assert store.get(plain).status == "done" and len(list(store.records())) == 1


def test_a_file_system_without_locks_is_said_by_who_would_write(tmp_path, monkeypatch):
    """Every calculation counted as one in the hands of another process, for ever."""
    store = Store(tmp_path)
    write(store, [-1.0])

    def refused(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("workflow_lib.dft.store.fcntl.flock", refused)
    assert store.get(calculation()).status == "interrupted"
    with pytest.raises(UserError, match="without locks"), store.writing(calculation()):
        pass
