"""What the user names becomes tables, with the weights of the settings or of a saved dataset."""

import pytest

from steerec.data.clean import clean
from steerec.data.dataset import DEFAULT_WEIGHTS
from steerec.data.rules import CleanConfig
from steerec.engine.intake import Source, read_source, take_in
from steerec.evaluation.protocols import prepare

NOW = 1_800_000_000.0
OWN = {"view": 0.25, "purchase": 9.0}


def source(place, **own):
    return Source(data=str(place), cache_dir=place / "cache", **own)


@pytest.fixture
def raw(tmp_path):
    """A view and a purchase of each of seven items by each of six users."""
    rows = [
        f"u{user},i{item},{kind},{1_700_000_000 + 100 * user + 10_000 * item + at}"
        for item in range(7)
        for user in range(6)
        for at, kind in enumerate(("view", "purchase"))
    ]
    (tmp_path / "shop").mkdir()
    header = "user_id,item_id,event,timestamp"
    (tmp_path / "shop" / "events.csv").write_text("\n".join([header, *rows]) + "\n")
    return tmp_path / "shop"


def test_weights_of_the_settings_reach_what_is_learnt_and_what_is_measured(raw):
    data = take_in(source(raw, weights=OWN), CleanConfig(), now=NOW).data
    assert data.kind_weights == OWN
    tables = read_source(source(raw, weights=OWN)).tables
    for protocol, kinds in (("loo", OWN), ("stream", {"purchase": 9.0})):
        split = prepare(tables, protocol).split
        assert split.train.kind_weights == split.cases.data.kind_weights == kinds
    cleaned = clean(tables, CleanConfig(), now=NOW).tables
    assert prepare(cleaned, "loo").split.train.kind_weights == OWN


def test_without_settings_kinds_have_the_default_weights(raw):
    tables = read_source(source(raw)).tables
    assert prepare(tables, "loo").split.train.kind_weights == {
        kind: DEFAULT_WEIGHTS[kind] for kind in OWN
    }


def test_a_saved_dataset_keeps_its_weights_in_every_command_and_says_so(raw, tmp_path):
    take_in(source(raw, weights=OWN), CleanConfig(), now=NOW).data.save(tmp_path / "dataset")
    saved = source(tmp_path / "dataset", weights={"view": 0.25, "purchase": 2.0})
    came = take_in(saved, CleanConfig(), now=NOW)
    tables = read_source(saved).tables
    assert came.data.kind_weights == prepare(tables, "loo").split.train.kind_weights == OWN
    told = "as imported, purchase 9 (settings: 2); import again to change them"
    assert came.read.tables.notes["weights"] == tables.notes["weights"] == told


def test_a_saved_dataset_with_the_weights_of_the_settings_needs_no_note(raw, tmp_path):
    take_in(source(raw), CleanConfig(), now=NOW).data.save(tmp_path / "dataset")
    assert read_source(source(tmp_path / "dataset")).tables.notes == {}
