"""What is made of repetitions: intervals, ratios, errors, and refusal of unequal work."""

import math
from dataclasses import replace

import pytest

from benchmarks import clock as clock_module
from benchmarks.cases import Run
from benchmarks.clock import Clock
from benchmarks.convergence import Ends
from benchmarks.convergence import summarise as summarise_convergence
from benchmarks.dynamics import Timings as DynamicsTimings
from benchmarks.dynamics import summarise as summarise_dynamics
from benchmarks.relaxation import Timings
from benchmarks.relaxation import summarise as summarise_relaxation
from benchmarks.summary import Pair, check, markdown, rows, summarise
from benchmarks.training import parse


def run(seconds, energy=10.0, force=100.0, **changes):
    values = {
        "seconds": seconds,
        "cpu_seconds": [0.5 * value for value in seconds],
        "energy_mae": energy,
        "force_mae": force,
        "start_energy_mae": 30.0,
        "start_force_mae": 400.0,
        "labels": {"energy": 16, "forces": 400},
        "parameters": 1000,
    }
    return Run(**{**values, **changes})


def pair(ours, peer, repetition=0, judged=True):
    load = {"ours": 0.5, "peer": 0.25 + repetition}
    return Pair(
        repetition=repetition, seed=repetition + 1, epochs=4, judged=judged, ours=ours, peer=peer, load=load
    )


def test_first_epoch_is_in_no_interval(monkeypatch):
    wall, cpu = iter([5.0, 7.0, 10.0]), iter([1.0, 1.5, 3.0])
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(clock_module.time, "process_time", lambda: next(cpu))
    clock = Clock()
    for _ in range(3):
        clock.mark()
    assert clock.seconds(3) == [2.0, 3.0]
    assert clock.cpu_seconds(3) == [0.5, 1.5]
    for wrong in (2, 4):
        with pytest.raises(RuntimeError, match=f"3 ends of epochs were seen, {wrong} were trained"):
            clock.seconds(wrong)


def test_ratio_is_the_median_over_repetitions_of_medians_over_epochs():
    pairs = [
        pair(run([1.0, 1.0, 9.0]), run([2.0, 2.0, 2.0])),  # 2: one slow epoch does not count
        pair(run([1.0, 1.0, 1.0]), run([3.0, 3.0, 3.0]), 1),  # 3
        pair(run([1.0, 1.0, 1.0]), run([90.0, 90.0, 90.0]), 2),  # 90: one slow repetition neither
    ]
    line = summarise("mace", pairs)
    assert line["name"] == "training/mace"
    assert (line["ratio"], line["ratio_low"], line["ratio_high"]) == (3.0, 2.0, 90.0)
    assert line["our_s_per_epoch"] == 1.0 and line["peer_s_per_epoch"] == 3.0
    assert line["fast_enough"] is True
    assert line["load_max"] == 2.25
    assert pairs[0].cpu_ratio == 2.0


def test_errors_are_means_over_the_seeds_that_are_judged():
    times = [1.0, 1.0]
    pairs = [
        pair(run(times, energy=8.0, force=90.0), run(times, energy=10.0, force=100.0)),
        pair(run(times, energy=14.0, force=140.0), run(times, energy=10.0, force=100.0), 1),
        pair(run(times, energy=99.0, force=1.0), run(times, energy=1.0, force=99.0), 2, judged=False),
    ]
    line = summarise("painn", pairs)
    found = line["validation"]
    assert found["seeds"] == 2
    assert found["energy_mae_mev_atom"] == {"ours": 11.0, "peer": 10.0, "ours_over_peer": 1.1}
    assert found["force_mae_mev_a"]["ours_over_peer"] == 1.15
    assert line["as_accurate"] is False
    assert summarise("painn", pairs[:1])["as_accurate"] is True
    assert summarise("painn", pairs[2:])["as_accurate"] is None
    assert summarise("painn", [pair(run([1.0]), run([0.94]))])["fast_enough"] is False
    with pytest.raises(ValueError, match="no repetition"):
        summarise("painn", [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"energy": 16, "forces": 0}}, "labels used by an epoch differ"),
        ({"parameters": 1001}, "parameters differ"),
        ({"start_energy_mae": 31.0}, "start_energy_mae differs"),
        ({"start_force_mae": math.nan}, "start_force_mae differs"),
    ],
)
def test_unequal_work_is_refused(changes, message):
    good = pair(run([1.0]), run([1.0], start_force_mae=401.0))
    check(good)
    with pytest.raises(RuntimeError, match=message):
        check(replace(good, peer=replace(good.peer, **changes)))


def test_table_has_a_row_a_side():
    table = rows("chgnet", pair(run([1.0, 3.0]), run([4.0, 4.0], energy=7.0)))
    assert [row["side"] for row in table] == ["ours", "peer"]
    assert [row["s_per_epoch"] for row in table] == [2.0, 4.0]
    assert [row["energy_mae_mev_atom"] for row in table] == [10.0, 7.0]
    assert table[0]["labels_forces"] == 400 and table[0]["load"] == 0.5


def test_markdown_has_a_line_a_family():
    lines = [
        summarise("mace", [pair(run([1.0]), run([2.0], energy=8.0))]),
        summarise("painn", [pair(run([1.0]), run([1.5]), judged=False)]),
    ]
    table = markdown(lines).splitlines()
    assert len({line.count("|") for line in table}) == 1
    assert "| mace | 1.00 | 2.00 | **2.00** (2.00 to 2.00) | 2.00 | 10.00 / 8.00 = 1.25 |" in table[2]
    assert table[3].endswith("|  |  |")


def test_relaxation_line():
    timings = Timings(
        ours=[1.0, 2.0, 1.0], peer=[3.0, 3.0, 2.0], structures=2, calls=10, energy_difference=0.1, moved=5.0
    )
    line = summarise_relaxation("relaxation/mace", timings, steps=4, load=0.3)
    assert line["name"] == "relaxation/mace"
    assert (line["ratio"], line["ratio_low"], line["ratio_high"]) == (2.0, 1.5, 3.0)
    assert (line["our_s_per_call"], line["peer_s_per_call"]) == (0.1, 0.3)


def test_convergence_line_says_who_got_there():
    def end(steps, seconds, energy, fmax):
        return {"steps": steps, "seconds": seconds, "energy": energy, "fmax": fmax, "smax": 0.1}

    ends = Ends(
        atoms=[28, 26],
        ours=[end(30, 1.0, -6.002, 0.05), end(40, 1.5, -6.0, 0.02)],
        peer=[end(200, 9.0, -6.0, 0.06), end(150, 6.0, -6.0, 0.05)],
        max_steps=200,
    )
    line = summarise_convergence("convergence/chgnet", ends, load=1.0)
    assert (line["our_steps"], line["our_reached"], line["peer_steps"], line["peer_reached"]) == (
        *(70, 2),
        *(350, 1),
    )
    assert (line["our_s"], line["peer_s"], line["ratio"]) == (2.5, 15.0, 6.0)
    assert line["energy_ours_minus_peer_mev_atom"] == [-2.0, 0.0]


def test_dynamics_line():
    timings = DynamicsTimings(
        ours=[1.0, 2.0, 1.0], peer=[3.0, 3.0, 2.0], atoms=[28, 26], evaluations=10, difference=1e-3
    )
    line = summarise_dynamics("dynamics/painn", timings, load=0.3)
    assert (line["ratio"], line["ratio_low"], line["ratio_high"]) == (2.0, 1.5, 3.0)
    assert (line["our_s_per_step"], line["peer_s_per_step"], line["structures"]) == (0.1, 0.3, 2)


def test_options():
    options = parse(["--quick", "--family", "mace"])
    assert (options.repetitions, options.seeds, options.epochs) == (1, 1, 3)
    assert options.family == ["mace"]
    with pytest.raises(SystemExit):
        parse(["--epochs", "1"])
