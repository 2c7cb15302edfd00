"""Group commit: concurrent small writes share one transaction and one sync of the disk."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from steerec.errors import QueueFullError, StorageError
from steerec.store.database import Database

log = logging.getLogger(__name__)

WAKE = "wake"  # among the jobs: some sit that may wait

LATE_S = 3.0  # after so long without another failure a database counts as there again

# Writes the rows of one tenant, says for each what became of it.
Write = Callable[[sa.Connection, str, Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """How much may wait and how much is written at once.

    Attributes:
        queue_rows: rows that may wait; more are refused with QueueFullError.
        group_rows: a group is written as soon as it has so many rows.
        linger_s: how long to wait for more. 0 loses nothing under load: while one group is
            synced, the next one gathers.
        patience_s: how long rows that nobody waits for may wait, to share a group with others.
    """

    queue_rows: int = 20_000
    group_rows: int = 2_000
    linger_s: float = 0.0
    patience_s: float = 0.1

    def __post_init__(self) -> None:
        waits = (self.linger_s, self.patience_s)
        if min(self.queue_rows, self.group_rows) < 1 or not all(0 <= wait <= 1 for wait in waits):
            raise ValueError(
                f"queue_rows={self.queue_rows}, group_rows={self.group_rows}, "
                f"linger_s={self.linger_s}, patience_s={self.patience_s}: expected at least 1 row "
                "each, and 0 to 1 seconds"
            )


@dataclass(slots=True)
class _Job:
    write: Write
    tenant: str
    rows: Sequence[Any]
    may_wait: bool = False
    done: Future[Sequence[Any]] = field(default_factory=Future)


class GroupWriter:
    """One thread that writes for all callers; a caller's future is set only after the commit."""

    def __init__(self, database: Database, config: GroupConfig) -> None:
        self._database = database
        self._config = config
        self._jobs: queue.SimpleQueue[_Job | str | None] = queue.SimpleQueue()
        self._door = threading.Lock()  # guards those below
        self._sitting: list[_Job] = []  # those that may wait, for the next group
        self._sitting_rows = 0
        self._waiting = 0
        self._rows_per_s = 1_000.0  # of late
        self._closed = False
        self._failed = (float("-inf"), "")  # when the newest group could not be written, and why
        self._thread = threading.Thread(target=self._run, name="steerec-writer", daemon=True)
        self._thread.start()

    @property
    def failing(self) -> str:
        """Why groups cannot be written of late; empty: they can, or nobody has tried."""
        at, why = self._failed
        return why if time.monotonic() - at < LATE_S else ""

    @property
    def waiting_rows(self) -> int:
        """Rows taken and not yet written."""
        return self._waiting

    def submit(
        self, write: Write, tenant: str, rows: Sequence[Any], *, may_wait: bool = False
    ) -> Future[Sequence[Any]]:
        """Queue rows; the future has one answer per row once all are on disk.

        It has a StorageError, and nothing was written, if the database failed.

        Args:
            may_wait: nobody waits for these rows, so they wait for others, at most `patience_s`.
        Raises:
            QueueFullError: if too many rows wait already.
            StorageError: if the store is closed.
        """
        job = _Job(write, tenant, rows, may_wait)
        with self._door:
            if self._closed:
                raise StorageError("the store is closed: open it again")
            if self._waiting and self._waiting + len(rows) > self._config.queue_rows:
                wait_s = max(0.05, round(self._waiting / self._rows_per_s, 2))
                raise QueueFullError(
                    f"{self._waiting} rows wait to be written, at most {self._config.queue_rows} "
                    f"may: send again in {wait_s:g} s",
                    retry_after_s=wait_s,
                )
            self._waiting += len(rows)
            if not may_wait:
                self._jobs.put(job)
            elif self._sit(job):
                self._jobs.put(WAKE)
        return job.done

    def _sit(self, job: _Job) -> bool:
        """Let a job wait; whether the writer must be told, which takes the GIL from the caller."""
        before = self._sitting_rows
        self._sitting.append(job)
        self._sitting_rows += len(job.rows)
        full = self._config.group_rows
        return len(self._sitting) == 1 or before < full <= self._sitting_rows

    def flush(self, tenant: str) -> None:
        """Return when all rows that were queued before are on disk, or have failed."""
        self.submit(lambda connection, tenant, rows: [], tenant, ()).result()

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._door:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            jobs, ended = self._gather(self._jobs.get())
            started = time.perf_counter()
            self._commit([job for job in jobs if job.done.set_running_or_notify_cancel()])
            n_rows = sum(len(job.rows) for job in jobs)
            speed = n_rows / max(time.perf_counter() - started, 1e-6)
            with self._door:
                self._waiting -= n_rows
                self._rows_per_s += 0.1 * (speed - self._rows_per_s)

    def _gather(self, first: _Job | str | None) -> tuple[list[_Job], bool]:
        """The jobs of a group, and whether the end was among them."""
        jobs: list[_Job] = []
        began, n_rows, job = time.perf_counter(), 0, first
        while job is not None:
            if isinstance(job, _Job):
                jobs.append(job)
                n_rows += len(job.rows)
            elif self._sitting_rows >= self._config.group_rows:
                break
            if n_rows >= self._config.group_rows:
                break
            wait_s = self._config.linger_s if jobs else self._config.patience_s
            left = began + wait_s - time.perf_counter()
            try:
                job = self._jobs.get(timeout=left) if left > 0 else self._jobs.get_nowait()
            except queue.Empty:
                break
        with self._door:
            sitting, self._sitting, self._sitting_rows = self._sitting, [], 0
        return sitting + jobs, job is None

    def _commit(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        try:
            answers = self._write(jobs)
        except StorageError as e:
            log.error("group_rows=%s failed error=%s", sum(len(j.rows) for j in jobs), e)
            self._failed = (time.monotonic(), str(e))
            for job in jobs:
                job.done.set_exception(e)
        except Exception as e:  # a fault of ours must reach its caller and not end the thread
            log.exception("group_jobs=%s failed", len(jobs))
            if len(jobs) > 1:  # the others are not to blame
                for job in jobs:
                    self._commit([job])
            else:
                jobs[0].done.set_exception(e)
        else:
            self._failed = (float("-inf"), "")
            for job, answer in zip(jobs, answers, strict=True):
                job.done.set_result(answer)

    def _write(self, jobs: list[_Job]) -> list[Sequence[Any]]:
        """Write all jobs in one transaction; the answers of each."""
        alike: dict[tuple[str, Hashable], list[int]] = {}
        for i, job in enumerate(jobs):
            alike.setdefault((job.tenant, job.write), []).append(i)
        answers: list[Sequence[Any]] = [()] * len(jobs)
        with self._database.write() as connection:
            # Tenants in order, so that two processes never wait for each other in a circle.
            for (tenant, _), numbers in sorted(alike.items(), key=lambda pair: pair[0][0]):
                rows = [row for i in numbers for row in jobs[i].rows]
                found = jobs[numbers[0]].write(connection, tenant, rows)
                at = 0
                for i in numbers:
                    answers[i] = found[at : at + len(jobs[i].rows)]
                    at += len(jobs[i].rows)
        return answers
