"""Against loss: killed processes, and random sequences compared with a plain dict."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from steerec.contracts import Event
from steerec.store import RetentionConfig, open_store
from steerec.store.log import LoggedEvent

NOW = 1_750_000_000.0
# Four threads append and print each id once it is acknowledged; every third event is sent again.
CHILD = """
import sys, threading
from steerec.contracts import Event
from steerec.store import open_store
from steerec.store.log import LoggedEvent

store, run = open_store(sys.argv[1]), sys.argv[2]
lock = threading.Lock()

def work(thread):
    n = 0
    while True:
        batch = [LoggedEvent(f"{run}-{thread}-{n + i}", Event("u", "i")) for i in range(n % 4 + 1)]
        for _ in range(1 + (n % 3 == 0)):
            store.log.append("shop", batch, now=1.0)
        with lock:
            sys.stdout.write("".join(f"{e.event_id}\\n" for e in batch))
            sys.stdout.flush()
        n += len(batch)

for thread in range(4):
    threading.Thread(target=work, args=(thread,)).start()
"""


def killed_run(url, run, rng):
    """Ids a child had acknowledged when it was killed at a random moment."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, url, run],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    acknowledged = []
    for line in child.stdout:
        acknowledged.append(line.strip())
        if len(acknowledged) == 1:
            stop_after = rng.randrange(1, 200)
        if len(acknowledged) == stop_after:
            os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    # The last line may be cut: then its id is not whole, and was not told.
    return acknowledged if acknowledged[-1].count("-") == 2 else acknowledged[:-1]


def check_kills(url, n_kills, seed):
    rng, acknowledged = random.Random(seed), []
    for run in range(n_kills):
        acknowledged += killed_run(url, str(run), rng)
        store = open_store(url)
        stored = [e.event_id for e in store.log.iterate("shop")]
        seqs = [e.seq for e in store.log.iterate("shop")]
        with store.database.read() as connection:
            kept = store.database.lock_tenant(connection, "shop")
        store.close()
        assert len(set(stored)) == len(stored)
        assert set(acknowledged) <= set(stored)
        assert seqs == list(range(1, len(seqs) + 1))
        assert kept.n_events == kept.last_seq == len(stored)


def test_a_killed_process_loses_no_acknowledged_event_and_doubles_none(sqlite_url):
    check_kills(sqlite_url, 4, seed=1)  # the fifth is on PostgreSQL


def test_a_killed_process_loses_nothing_on_postgresql(postgres_url):
    check_kills(postgres_url, 1, seed=2)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_fifty_kills_lose_and_double_nothing(request, engine):
    check_kills(request.getfixturevalue(f"{engine}_url"), 50, seed=3)


IDS = st.integers(0, 12).map(lambda n: f"e{n}")
USERS = st.sampled_from(["ann", "bob", "eve"])


class LogMachine(RuleBasedStateMachine):
    """The log against a dict of event_id → (seq, user, item)."""

    made = None  # a file with the tables

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        shutil.copy(self.made, self.folder / "store.db")
        self.store = open_store(str(self.folder / "store.db"))
        self.kept, self.erased, self.seq = {}, set(), 0

    @rule(batch=st.lists(st.tuples(IDS, USERS, st.sampled_from("xy")), max_size=6))
    def append(self, batch):
        events = [LoggedEvent(i, Event(user, item)) for i, user, item in batch]
        answers = self.store.log.append("shop", events, now=NOW)
        for (event_id, *content), answer in zip(batch, answers, strict=True):
            assert answer.outcome.value == self.expected(event_id, content)
            assert answer.seq == self.kept.get(event_id, (0,))[0]

    def expected(self, event_id, content):
        if event_id in self.kept:
            return "replay" if self.kept[event_id][1] == content else "conflict"
        if event_id in self.erased:
            return "erased"
        self.seq += 1
        self.kept[event_id] = (self.seq, content)
        return "new"

    @rule(user=USERS)
    def erase(self, user):
        mine = {i for i, (_, content) in self.kept.items() if content[0] == user}
        proof = self.store.persons.erase("shop", user, now=NOW)
        self.seq += 1
        assert (proof.events, proof.seq) == (len(mine), self.seq)
        self.erased |= mine
        for event_id in mine:
            del self.kept[event_id]

    @precondition(lambda self: self.kept)
    @rule(keep=st.integers(0, 8), at_most=st.integers(1, 4))
    def trim(self, keep, at_most):
        config = RetentionConfig(events=keep, events_days=None)
        self.store.trim("shop", config, now=NOW, at_most=at_most)
        n_gone = min(max(0, len(self.kept) - keep), at_most)
        oldest = sorted(self.kept, key=lambda i: self.kept[i][0])[:n_gone]
        for event_id in oldest:
            del self.kept[event_id]

    @rule()
    def reopen(self):
        self.store.close()
        self.store = open_store(str(self.folder / "store.db"))

    @rule()
    def dump_and_restore(self):
        self.store.dump(self.folder / "store.zip", now=NOW)
        self.store.restore(self.folder / "store.zip", replace=True)

    @invariant()
    def the_log_is_the_dict_in_order(self):
        found = [
            (e.event_id, (e.seq, [e.event.user_id, e.event.item_id]))
            for e in self.store.log.iterate("shop", batch=3)
        ]
        assert found == sorted(self.kept.items(), key=lambda pair: pair[1][0])

    def teardown(self):
        with contextlib.suppress(AttributeError):  # it never began
            self.store.close()
            shutil.rmtree(self.folder)


def test_any_sequence_leaves_the_log_that_a_dict_would_be(sqlite_file):
    LogMachine.made = sqlite_file
    case = LogMachine.TestCase
    case.settings = settings(
        max_examples=8, stateful_step_count=12, deadline=None, derandomize=True
    )
    case().runTest()
