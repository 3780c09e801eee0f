"""Ids of trained models: written and read in one place, strict about variants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow_lib.core.errors import UserError
from workflow_lib.core.plotting import OKABE_ITO
from workflow_lib.models.identity import UNTRAINED, VARIANTS, ModelId, model_colours, variant_of

words = st.text("abcf019s", min_size=1, max_size=4) | st.sampled_from(list(VARIANTS))
names = st.lists(words, min_size=1, max_size=3).map("-".join)
ids = st.builds(
    ModelId, names, st.sampled_from(list(VARIANTS)), st.integers(0, 99), st.integers(0, 2**32 - 1)
)


@given(ids)
def test_an_id_reads_as_it_was_written(identity: ModelId):
    assert ModelId.parse(str(identity)) == identity


def test_names_may_hold_the_names_of_variants():
    assert ModelId.parse("chgnet-pretrained-new-species-f2-s11") == (
        *("chgnet-pretrained", "new-species", 2, 11),
    )
    assert ModelId.parse("mace-baseline-entropy-f0-s1") == ("mace-baseline", "entropy", 0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("painn-charge-embedding-f0-s1", "'embedding'; known: baseline, entropy"),
        ("painn-entopy-f0-s1", "did you mean 'entropy'"),
        ("entropy-f0-s1", "names no variant"),
        ("painn-entropy-f0", "looks like painn-entropy-f0-s1"),
        ("painn-entropy-f00-s1", "looks like"),
        ("painn-entropy-f0-s1\n", "looks like"),
        ("Painn-entropy-f0-s1", "looks like"),
        ("ewald", "looks like"),
    ],
)
def test_what_is_no_id_is_an_error(text: str, message: str):
    with pytest.raises(UserError, match=message):
        ModelId.parse(text)


def test_an_unknown_variant_is_an_error():
    with pytest.raises(UserError, match="did you mean 'shuffled'"):
        variant_of("shufled")


def test_variants_look_different():
    assert len({variant.marker for variant in VARIANTS.values()}) == len(VARIANTS)
    assert UNTRAINED.marker not in {variant.marker for variant in VARIANTS.values()}


@given(st.sets(names, max_size=8))
def test_colours_do_not_depend_on_the_other_models_of_a_figure(others: set[str]):
    known = model_colours(["mace", "painn", "cpainn", "chgnet"])
    assert known.items() <= model_colours([*known, *others]).items()
    assert len(set(known.values())) == 4
    assert set(model_colours(others).values()) <= set(OKABE_ITO)
