"""A snapshot gives back the same recommender, and is refused once anything about it is wrong."""

import json
import os
import shutil
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine_worlds import model, refitted, world
from steerec.contracts import Event, Query
from steerec.engine.pool import PoolConfig
from steerec.engine.recommender import Recommender
from steerec.engine.snapshot import MANIFEST, load_snapshot, save_snapshot
from steerec.errors import SnapshotError

QUERIES = [Query("u0003"), Query("never seen"), Query(session=("i0001",)), Query("u0010", n=60)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("snapshots") / "model"
    save_snapshot(model(), folder, now=1_700_000_000.0)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


@cache
def slates():
    return Recommender(model(), np.random.default_rng(0)).recommend_many(QUERIES)


def manifest_of(folder):
    return json.loads((folder / MANIFEST).read_text("utf-8"))


def files_of(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_a_loaded_model_gives_identical_slates(saved):
    loaded = load_snapshot(saved)
    assert Recommender(loaded, np.random.default_rng(0)).recommend_many(QUERIES) == slates()
    np.testing.assert_array_equal(loaded.strategy.theta, model().strategy.theta)
    assert loaded.strategy.features == model().phi.names
    assert list(loaded.heads) == list(model().heads)
    assert loaded.data.content_hash == model().data.content_hash
    assert loaded.seconds == model().seconds


def test_a_snapshot_knows_from_which_event_on_tastes_count(saved, tmp_path):
    assert load_snapshot(saved).phi.taste_from == model().phi.taste_from
    late = replace(model(), phi=replace(model().phi, taste_from=4))
    save_snapshot(late, tmp_path / "late")
    assert load_snapshot(tmp_path / "late").phi.taste_from == 4


def test_saving_twice_gives_the_same_files_but_for_containers_with_times(saved, tmp_path):
    save_snapshot(load_snapshot(saved), tmp_path / "again", now=1_700_000_000.0)
    first, second = manifest_of(saved), manifest_of(tmp_path / "again")
    assert set(first["files"]) == set(second["files"])
    for part in ("calibrations", "strategy", "phi", "data_hash", "created", "heads"):
        assert first[part] == second[part]


def test_the_manifest_says_what_is_inside(saved):
    manifest = manifest_of(saved)
    assert manifest["format"] == 1
    assert manifest["created"] == "2023-11-14T22:13:20+00:00"
    assert manifest["heads"] == list(model().heads)
    names = {p.relative_to(saved).as_posix() for p in files_of(saved)}
    assert set(manifest["files"]) == names - {MANIFEST}


def test_no_file_holds_a_pickle(saved):
    for path in files_of(saved):
        assert path.suffix in {".json", ".npy", ".npz", ".parquet"}, path.name
        if path.suffix in {".npy", ".npz"}:
            stored = np.load(path, allow_pickle=False)
            arrays = stored.values() if path.suffix == ".npz" else [stored]
            assert all(array.dtype != object for array in arrays)


def test_a_new_snapshot_replaces_the_old_one_and_leaves_nothing_beside(copy):
    save_snapshot(replace(model(), strategy=replace(model().strategy, version=3)), copy)
    assert load_snapshot(copy).strategy.version == 3
    assert [p.name for p in copy.parent.iterdir()] == ["model"]


def test_a_folder_of_something_else_is_never_overwritten(tmp_path):
    (tmp_path / "photo.txt").write_text("mine")
    with pytest.raises(SnapshotError, match="no snapshot"):
        save_snapshot(model(), tmp_path)
    assert (tmp_path / "photo.txt").read_text() == "mine"


def test_a_failing_save_leaves_the_old_snapshot_and_no_rubbish(copy):
    class Full:
        def save(self, folder):
            raise OSError("no space left on device")

    broken = replace(model(), heads={**model().heads, "ease": Full()})
    with pytest.raises(SnapshotError, match="no space left"):
        save_snapshot(broken, copy)
    assert [p.name for p in copy.parent.iterdir()] == ["model"]
    assert load_snapshot(copy).strategy.version == 0


@pytest.fixture
def states(tmp_path, monkeypatch):
    """Save over an older snapshot; keep the folder around it as it was at each step between."""
    kept, on_disk = [], set()
    place = tmp_path / "live" / "model"
    save_snapshot(model(), place)

    def watched(module, name):
        call = getattr(module, name)

        def step(first, *rest, **options):
            if name == "fsync":
                on_disk.add(os.fstat(first).st_ino)
            else:
                kept.append((shutil.copytree(place.parent, tmp_path / str(len(kept))), {*on_disk}))
            return call(first, *rest, **options)

        monkeypatch.setattr(module, name, step)

    watched(os, "fsync")
    for name in ("rename", "replace", "rmdir"):
        watched(os, name)
    save_snapshot(replace(model(), strategy=replace(model().strategy, version=3)), place)
    monkeypatch.undo()
    return kept, place


def test_killed_at_any_step_a_save_leaves_the_old_or_the_new_snapshot(states):
    kept, place = states
    found = [load_snapshot(around / "model").strategy.version for around, _ in kept]
    assert found == sorted(found)
    assert {*found} == {0, 3}
    assert load_snapshot(place).strategy.version == 3


def test_after_a_kill_the_next_save_clears_away_what_was_left(states):
    around = next(a for a, _ in states[0] if not (a / "model").exists())
    assert len(list(around.iterdir())) == 2  # the old one aside, the new one not yet in place
    save_snapshot(replace(model(), strategy=replace(model().strategy, version=4)), around / "model")
    assert [p.name for p in around.iterdir()] == ["model"]
    assert load_snapshot(around / "model").strategy.version == 4


def test_all_is_on_the_disk_before_the_old_snapshot_steps_aside(states):
    kept, place = states
    _, on_disk = next((a, disk) for a, disk in kept if disk)
    everything = {p.stat().st_ino for p in (place, *place.rglob("*"))}
    assert everything <= on_disk


def test_a_save_that_cannot_take_its_place_gives_the_old_one_back(copy, monkeypatch):
    rename = os.rename

    def refuse(source, target, **options):
        if ".part." in str(source):
            raise OSError("device is gone")
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(SnapshotError, match="device is gone"):
        save_snapshot(replace(model(), strategy=replace(model().strategy, version=3)), copy)
    monkeypatch.undo()
    assert [p.name for p in copy.parent.iterdir()] == ["model"]
    assert load_snapshot(copy).strategy.version == 0


def test_every_truncated_file_is_named(saved, copy):
    for path in files_of(copy):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(SnapshotError, match=path.name):
            load_snapshot(copy)
        path.write_bytes(whole)
    load_snapshot(copy)


def test_every_missing_file_is_named(copy):
    for path in files_of(copy):
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(SnapshotError, match=path.name):
            load_snapshot(copy)
        path.write_bytes(whole)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_one_changed_byte_anywhere_is_refused(copy, data):
    path = data.draw(st.sampled_from([p for p in files_of(copy) if p.name != MANIFEST]))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    try:
        with pytest.raises(SnapshotError, match=path.name):
            load_snapshot(copy)
    finally:
        path.write_bytes(whole)


def test_a_file_that_does_not_belong_is_refused(copy):
    (copy / "heads" / "ease" / "surprise.npy").write_bytes(b"x")
    with pytest.raises(SnapshotError, match=r"heads/ease/surprise\.npy does not belong"):
        load_snapshot(copy)


@pytest.mark.parametrize("part", ["strategy", "calibrations", "heads", "files", "repeats"])
def test_a_changed_manifest_is_refused(copy, part):
    manifest = manifest_of(copy)
    manifest[part] = {}
    (copy / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(SnapshotError, match=r"manifest\.json was altered"):
        load_snapshot(copy)


def test_another_format_version_says_what_to_do(copy):
    (copy / MANIFEST).write_text(json.dumps({**manifest_of(copy), "format": 99}), "utf-8")
    with pytest.raises(SnapshotError, match=r"format 99.*reads 1.*fit the model again"):
        load_snapshot(copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", "\x00\x01"])
def test_a_manifest_that_is_none_is_refused(copy, text):
    (copy / MANIFEST).write_text(text, "utf-8")
    with pytest.raises(SnapshotError, match=r"manifest\.json"):
        load_snapshot(copy)


def test_a_folder_without_a_manifest_or_none_at_all_is_no_snapshot(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SnapshotError, match=r"no snapshot: .*; name a folder that"):
            load_snapshot(folder)
    (tmp_path / "file").write_text("x")
    with pytest.raises(SnapshotError):
        load_snapshot(tmp_path / "file")


def test_a_head_that_is_not_installed_here_is_named(tmp_path):
    head = model().heads["trending"]
    theirs = replace(model(), heads={"not_installed_here:Head": head})
    save_snapshot(theirs, tmp_path / "model")
    with pytest.raises(SnapshotError, match="not_installed_here"):
        load_snapshot(tmp_path / "model")


def test_live_counts_of_the_heads_are_saved_and_the_recommender_goes_on(tmp_path):
    fresh = refitted()
    r = Recommender(fresh, np.random.default_rng(0))
    for item in ("i0001", "i0030", "i0001", "i0030"):
        r.learn(Event("new", item, timestamp=world().now))
    pooled = PoolConfig(full_catalogue=1, per_head=60, pool_limit=60, fresh=20)
    query = Query(session=("i0001",), n=5, now=world().now)
    before = r.recommend(query)
    save_snapshot(fresh, tmp_path / "model")
    loaded = load_snapshot(tmp_path / "model")
    for same in (fresh, loaded):  # the saved model itself goes on working, too
        for config in (PoolConfig(), pooled):
            after = Recommender(same, np.random.default_rng(0), config).recommend(query)
            assert after.left_out == ()
            np.testing.assert_allclose(
                [c.score for c in after.items], [c.score for c in before.items], atol=1e-4
            )


def test_learning_after_loading_never_changes_the_files(copy):
    r = Recommender(load_snapshot(copy), np.random.default_rng(0))
    for _ in range(3):
        r.learn(Event("new", "i0001", timestamp=world().now))
        r.learn(Event("new", "i0030", timestamp=world().now))
    save_snapshot(r.model, copy.parent / "other")  # merges the live counts
    assert (
        Recommender(load_snapshot(copy), np.random.default_rng(0)).recommend_many(QUERIES)
        == slates()
    )
