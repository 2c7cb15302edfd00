"""Random sequences of writes to the catalogue, persons and keys, compared with plain dicts."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from steerec.store import RetentionConfig
from steerec.store.catalogue import Entry

NOW = 1_750_000_000.0
DAY = 86_400.0
IDS = st.integers(0, 6).map(lambda n: f"x{n}")
VALUES = st.one_of(st.none(), st.integers(-3, 3), st.sampled_from(["", "té", "'\"%_", "甲"]))
ENTRIES = st.builds(
    Entry,
    IDS,
    st.dictionaries(st.sampled_from("abc"), VALUES, max_size=2),
    st.lists(st.sampled_from(["new", "sale"]), max_size=2).map(tuple),
    st.booleans(),
    stock=st.one_of(st.none(), st.integers(0, 5)),
)
GIVEN = ("id", "attributes", "labels", "hidden", "published", "expires", "stock")


def given_of(entry):
    return {name: getattr(entry, name) for name in GIVEN}


class CatalogueMachine(RuleBasedStateMachine):
    """Users of one tenant against a dict of id → entry, and a follower that reads changes."""

    store = None  # one for all runs, each with a tenant of its own
    tenants = itertools.count()

    @initialize()
    def begin(self):
        self.tenant, self.table = f"t{next(self.tenants)}", self.store.users
        self.kept, self.deleted, self.followed, self.after = {}, set(), {}, 0

    @rule(entries=st.lists(ENTRIES, max_size=4))
    def upsert(self, entries):
        self.table.upsert(self.tenant, entries, now=NOW)
        for entry in entries:
            self.kept[entry.id] = entry
        self.deleted -= self.kept.keys()

    @rule(entries=st.lists(ENTRIES, max_size=4))
    def add(self, entries):
        fresh = {e.id: e for e in entries if e.id not in self.kept and e.id not in self.deleted}
        assert self.table.add(self.tenant, entries, now=NOW) == len(fresh)
        self.kept.update(fresh)

    @rule(name=IDS, stock=st.integers(0, 9), attributes=st.dictionaries(st.just("a"), VALUES))
    def patch(self, name, stock, attributes):
        changes = {"stock": stock, "attributes": attributes}
        told = self.table.patch(self.tenant, name, changes, now=NOW)
        assert (told is None) == (name not in self.kept)
        if told is not None:
            was = self.kept[name]
            merged = {**was.attributes, **attributes}
            merged = {k: v for k, v in merged.items() if v is not None}
            self.kept[name] = replace(was, stock=stock, attributes=merged)
            assert given_of(told) == given_of(self.kept[name])

    @rule(names=st.lists(IDS, max_size=3))
    def delete(self, names):
        there = set(names) & self.kept.keys()
        assert self.table.delete(self.tenant, names, now=NOW) == len(there)
        for name in there:
            del self.kept[name]
        self.deleted |= there

    @rule(name=IDS)
    def erase(self, name):
        """An erased user is no deletion: no change tells of them, others hear of the erasure."""
        told = self.store.persons.erase(self.tenant, name, now=NOW)
        assert told.users == (name in self.kept or name in self.deleted)
        self.kept.pop(name, None)
        self.deleted.discard(name)
        self.followed.pop(name, None)
        assert self.store.persons.erasures(self.tenant)[-1].seq == told.seq

    @precondition(lambda self: self.followed.keys() <= self.kept.keys())
    @rule()
    def deletions_are_forgotten(self):
        """After their time, which is when all followers have read them."""
        self.store.trim(self.tenant, RetentionConfig(), now=NOW + 31 * DAY)
        self.deleted.clear()

    @rule()
    def out_and_in(self):
        lines = list(self.table.export_jsonl(self.tenant))
        assert self.table.import_jsonl(self.tenant, lines, now=NOW) == len(self.kept)

    @rule(limit=st.integers(1, 3))
    def follow(self, limit):
        while found := self.table.changes(self.tenant, after=self.after, limit=limit):
            for entry in found:
                assert entry.seq > self.after
                self.after = entry.seq
                if entry.deleted:
                    self.followed.pop(entry.id, None)
                else:
                    self.followed[entry.id] = entry
        assert {n: given_of(e) for n, e in self.followed.items()} == self.expected()

    @invariant()
    def the_table_is_the_dict(self):
        found = {e.id: given_of(e) for e in self.table.iterate(self.tenant, batch=2)}
        assert found == self.expected()
        assert list(found) == sorted(self.kept)
        assert self.table.count(self.tenant) == len(self.kept)
        some = ["x0", "x3", "none"]
        assert self.table.get(self.tenant, some).keys() == self.kept.keys() & set(some)

    def expected(self):
        return {name: given_of(entry) for name, entry in self.kept.items()}


class KeysMachine(RuleBasedStateMachine):
    """Keys of two tenants against a dict of their texts."""

    store = None
    tenants = itertools.count()

    @initialize()
    def begin(self):
        number = next(self.tenants)
        self.names = [f"k{number}", f"rival{number}"]
        self.good, self.gone = {}, set()

    @rule(which=st.integers(0, 1), scopes=st.sets(st.sampled_from(["read", "events", "admin"])))
    def issue(self, which, scopes):
        text, key = self.store.keys.issue(self.names[which], sorted(scopes), now=NOW)
        assert text not in self.good
        self.good[text] = key

    @precondition(lambda self: self.good)
    @rule(data=st.data(), foreign=st.booleans())
    def revoke(self, data, foreign):
        text = data.draw(st.sampled_from(sorted(self.good)))
        key = self.good[text]
        (other,) = set(self.names) - {key.tenant}
        asked = other if foreign else key.tenant
        assert self.store.keys.revoke(asked, key.key_id, now=NOW) == (not foreign)
        if not foreign:
            del self.good[text]
            self.gone.add(text)
            assert not self.store.keys.revoke(asked, key.key_id, now=NOW)

    @precondition(lambda self: self.good)
    @rule(data=st.data(), at=st.integers(0, 88), letter=st.sampled_from("0f_ é"))
    def alter(self, data, at, letter):
        text = data.draw(st.sampled_from(sorted(self.good)))
        altered = text[:at] + letter + text[at + 1 :]
        assert self.store.keys.check(altered) == self.good.get(altered)

    @invariant()
    def good_keys_open_and_others_do_not(self):
        assert all(self.store.keys.check(text) == key for text, key in self.good.items())
        assert not any(self.store.keys.check(text) for text in self.gone)
        for name in self.names:
            listed = [key.key_id for key in self.store.keys.list(name) if key.revoked is None]
            mine = [key.key_id for key in self.good.values() if key.tenant == name]
            assert sorted(listed) == sorted(mine)


def check(machine, store, n_examples, n_steps):
    case = type("Over", (machine,), {"store": store}).TestCase
    case.settings = settings(
        max_examples=n_examples,
        stateful_step_count=n_steps,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    case().runTest()


@pytest.mark.parametrize("machine", [CatalogueMachine, KeysMachine])
def test_any_sequence_leaves_the_rows_that_a_dict_would_hold(machine, store):
    check(machine, store, 3, 12)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("machine", [CatalogueMachine, KeysMachine])
def test_any_long_sequence_leaves_the_rows_that_a_dict_would_hold(machine, store):
    check(machine, store, 100, 50)
