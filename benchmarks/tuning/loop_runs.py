"""Runs of P5 that are kept one by one, so that a benchmark that was stopped goes on where it was.

A folder holds the runs of one world, length and temperature. It remembers what they were made of,
and refuses runs of other data, heads or weights: those of another fit are no match.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steerec.engine.evaluate import commit, machine
from steerec.engine.loop import LoopConfig, Trace
from steerec.engine.model import Model

HERE = Path(__file__).parent
RUNS = HERE / "cache" / "runs"  # git ignores it


@dataclass(frozen=True)
class Kept:
    """The folder of one scenario.

    Attributes:
        about: what its runs have in common: world, loop, heads and hash of the data.
    """

    folder: Path
    about: dict[str, Any]

    @classmethod
    def open(cls, root: Path, world: str, loop: LoopConfig, about: dict[str, Any]) -> "Kept":
        """The folder, made where there is none.

        Raises:
            SystemExit: if what lies there was made of something else.
        """
        folder = root / f"{world}-{loop.slates}"
        about = json.loads(json.dumps({"world": world, "loop": asdict(loop), **about}))
        told = folder / "about.json"
        if told.is_file() and json.loads(told.read_text("utf-8")) != about:
            raise SystemExit(f"{folder} holds runs of {told.read_text('utf-8')}: move it away")
        folder.mkdir(parents=True, exist_ok=True)
        told.write_text(json.dumps(about), "utf-8")
        return cls(folder, about)

    @classmethod
    def found(cls, root: Path, world: str, slates: int) -> "Kept":
        """A folder as it lies there."""
        folder = root / f"{world}-{slates}"
        return cls(folder, json.loads((folder / "about.json").read_text("utf-8")))

    def has(self, policy: str, seed: int) -> bool:
        """Whether this run is there."""
        return self._file(policy, seed).is_file()

    def keep(self, trace: Trace, **facts: Any) -> None:
        """Store one run with the commit and machine that made it; whole or not at all."""
        told = {
            "notes": trace.notes,
            "told": trace.told,
            "commit": commit(),
            "machine": machine(),
            **facts,
        }
        file = self._file(trace.policy, trace.seed)
        part = file.with_suffix(".part")
        with part.open("wb") as out:
            np.savez_compressed(
                out,
                clicks=trace.clicks,
                expected=trace.expected,
                returned=trace.returned,
                told=np.array(json.dumps(told)),
            )
        part.replace(file)

    def runs(self) -> dict[str, list[tuple[Trace, dict[str, Any]]]]:
        """Policy → its runs by seed, each with the facts it was kept with."""
        found: dict[str, list[tuple[Trace, dict[str, Any]]]] = {}
        for file in self._files():
            policy, _, seed = file.stem.rpartition("-")
            with np.load(file, allow_pickle=False) as arrays:
                told = json.loads(str(arrays["told"]))
                trace = Trace(
                    policy,
                    int(seed),
                    *(arrays[name] for name in ("clicks", "expected", "returned")),
                    told=told.pop("told"),
                    notes=told.pop("notes"),
                )
            found.setdefault(policy, []).append((trace, told))
        return found

    def _file(self, policy: str, seed: int) -> Path:
        return self.folder / f"{policy}-{seed}.npz"

    def _files(self) -> Iterator[Path]:
        def seed(file: Path) -> tuple[str, int]:
            policy, _, number = file.stem.rpartition("-")
            return policy, int(number)

        yield from sorted(self.folder.glob("*-*.npz"), key=seed)


def made_of(model: Model) -> dict[str, Any]:
    """What all runs of a folder must have in common: data, heads, and θ to three places."""
    theta = np.round(model.strategy.theta, 3) + 0.0  # no -0
    return {
        "data_hash": model.data.content_hash,
        "heads": list(model.strategy.heads),
        "theta_hash": hashlib.sha256(theta.tobytes()).hexdigest()[:12],
    }


def missing(kept: Kept, policies: Sequence[str], seeds: range) -> list[tuple[str, int]]:
    """What is still to be run, seed by seed, so that few seeds are whole before many are begun."""
    return [(name, seed) for seed in seeds for name in policies if not kept.has(name, seed)]
