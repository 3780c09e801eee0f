"""The fast and the careful reader of extended XYZ: one meaning for any comment line and any numbers."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow_lib.frames.frame import Frame
from workflow_lib.frames.labels import ACCEPTED
from workflow_lib.frames.reading.comment import pairs
from workflow_lib.frames.reading.common import Damaged, Defaults
from workflow_lib.frames.reading.scan import RawFrame
from workflow_lib.frames.reading.xyz import _Builder

NINE = '"0.01 0 0 0 0.02 0 0 0 0.03"'
ATOMS = ["Na 0 0 0 1 0 0 0.5 1", "Fe 2 2 2.25 -1 0 1e-3 4.2 2", "O 1.125 3 2 0 0 0 -0.1 -2"]
NAMES = [name for names in ACCEPTED.values() for name in names]
VALUES = st.sampled_from(
    [
        *(
            "007",
            "7.0",
            "1e5",
            "1_000",
            "0010",
            "T",
            "F",
            "yes",
            "True",
            "four",
            "-4",
            "4",
            "nan",
            "inf",
            "''",
        ),
        *("-1.5", "1e300", '"1 2 3"', "'a b'", '"a b"', '""', "{1 2 3}", "[1, 2, 3]", "[[1, 2], [3, 4]]"),
        *(
            '"it\'s"',
            r'"a \"b\" c"',
            "a=b",
            '"a=b"',
            '"not closed',
            "{open",
            NINE,
            '"1 2 3 4 5 6"',
            "²",
            "FM",
        ),
        *(
            '"_JSON [[1, 2, 3], [2, 4, 5], [3, 5, 6]]"',
            "[[1, 0, 0], [0, 2, 0], [0, 0, 3]]",
            "a,b",
            "_JSON[1,2]",
        ),
    ]
) | st.text(st.characters(exclude_characters="\n"), max_size=6)
COLUMNS = st.sampled_from(
    [
        ":forces:R:3:magmoms:R:1:oxidation_states:R:1",
        ":REF_forces:R:3:charges:R:1:oxidation_state:I:1",
        ":forces:R:3:x:R:1:y:I:1",
        ":force:R:3:tag:S:2",
        ":forces:R:2:magmoms:R:3",
        ":tag:I:1:energy:R:1:stress:R:9",
        ":oxidation_states:S:1",
    ]
)


def both(comment: str, atoms: list[str] = ATOMS) -> list[Frame | Damaged]:
    block = "".join(f"{line}\n" for line in atoms).encode()
    raw = RawFrame(0, 1, len(atoms), comment.encode("utf-8", "surrogatepass"), block)
    fast = _Builder(Defaults("t")).frames([raw])[0]
    return [fast, _Builder(Defaults("t"))._careful(raw)]


def assert_same(fast: Frame | Damaged, careful: Frame | Damaged) -> None:
    assert type(fast) is type(careful), (fast, careful)
    if isinstance(fast, Damaged):
        assert fast == careful
        return
    for field in fields(Frame):
        np.testing.assert_array_equal(
            getattr(fast, field.name), getattr(careful, field.name), err_msg=field.name
        )


@given(
    said=st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=4),
    columns=COLUMNS,
    blank=st.sampled_from([" ", "  ", "\t"]),
    pbc=st.sampled_from(
        ["", ' pbc="T T T"', " pbc=T", ' pbc="T T F"', " pbc=[T,T,T]", ' pbc="1 1 1"', " pbc=2"]
    ),
)
def test_any_comment_line(said, columns, blank, pbc) -> None:
    words = [f"{name}={value}" for name, value in said]
    start = f'Lattice="5 0 0 0 6 0 0 0 4.5" Properties=species:S:1:pos:R:3{columns}{pbc}'
    assert_same(*both(blank.join([start, "energy=-1.25", *words])))
    assert_same(*both(blank.join([*words, start])))


@given(
    place=st.integers(0, 26),
    word=st.sampled_from(
        ["1_0", "1e2", "1d2", "+1", "-0", ".5", "5.", "nan", "1e400", "T", "0x1", "1.0.0", "-"]
    )
    | st.floats(width=32).map(repr)
    | st.integers(-(2**70), 2**70).map(str),
)
def test_any_number(place: int, word: str) -> None:
    words = [line.split() for line in ATOMS]
    words[place // 9][place % 9] = word
    comment = (
        'Lattice="5 0 0 0 6 0 0 0 4.5" Properties=species:S:1:pos:R:3:forces:R:3:magmoms:R:1:charges:R:1'
    )
    assert_same(*both(f"{comment} energy=-1.25", [" ".join(line) for line in words]))


@pytest.mark.parametrize("value", ["007", "1e5", "1_000", "T", "'7 8'", "[1,2]"])
def test_names_are_kept_as_written(value: str) -> None:
    """Readers that guess types make 7 of 007 and 100000.0 of 1e5: another frame, another group."""
    start = f'Lattice="5 0 0 0 6 0 0 0 4.5" Properties=species:S:1:pos:R:3 energy=-1 frame_id={value}'
    for more in ("", " pbc=[T,T,T]", " oxidation_states=[1,2,-2]"):
        for frame in both(
            f"{start} group={value}{more}", [line[:10] for line in ("O 0 0 0", "O 1 1 1", "O 2 2 2")]
        ):
            assert (frame.frame_id, frame.group) == (value.strip("'[]"),) * 2


def test_columns_of_atoms_are_no_labels_of_the_frame() -> None:
    """Per-atom tags, energies and stresses exist; none of them is the kind, energy or stress of a cell."""
    start = 'Lattice="5 0 0 0 6 0 0 0 4.5" energy=-1 Properties=species:S:1:pos:R:3'
    atoms = [f"{line[:8]} 1 {'0.5 ' * 10}" for line in ("O 0 0 0 ", "O 1 1 1 ")]
    for frame in both(f"{start}:tag:I:1:energies:R:1:stress:R:9", atoms):
        assert (frame.kind, frame.energy, frame.stress) == ("unspecified", -1.0, None)
    for frame in both(f"{start}:oxidation_states:S:1", ["O 0 0 0 2+", "O 1 1 1 3+"]):
        assert "oxidation_states:S:1; these labels are numbers" in frame.reason


@pytest.mark.parametrize("odd", ['stress="1 2 3', "note={a", 'note="a" b" group=x', "group='a", "x=[1 [2]"])
def test_a_line_that_is_not_understood_loses_no_label_silently(odd: str) -> None:
    with pytest.raises(ValueError, match="cannot be understood from"):
        pairs(f"energy=-1 {odd}".encode())
