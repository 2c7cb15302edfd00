"""Snapshots: a fitted model as a folder of plain files, checked in full before it is used."""

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from steerec.contracts import Strategy
from steerec.data.dataset import Dataset
from steerec.engine.calibrate import calibration_from_json, calibration_to_json
from steerec.engine.fused import Fused
from steerec.engine.model import Model
from steerec.engine.phi import Phi, PhiConfig
from steerec.errors import DataError, SnapshotError, SteerecError
from steerec.heads import load_head
from steerec.version import __version__

FORMAT = 1
MANIFEST = "manifest.json"
FUSED = "fused.npz"
_REMEDY = "restore it from a copy, or fit the model again and save it"


def save_snapshot(model: Model, folder: Path, *, now: float | None = None) -> None:
    """Write the model as a folder that appears whole or not at all; an older snapshot is replaced.

    Whenever the process is killed or the power fails, `load_snapshot(folder)` gives the old or the
    new one. One writer at a time: what a killed save left beside the folder is cleared away.

    Save before events are learnt, or replay only later ones after loading: heads keep their live
    counts, while `model.data` has only the events it was fitted on.

    Args:
        now: Unix seconds noted as the time of making; None: none is noted.
    Raises:
        SnapshotError: if `folder` exists and is no snapshot, or cannot be written.
    """
    folder = folder.absolute()  # "." has no name of its own
    _check_target(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_after_a_kill(folder)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.part.", dir=folder.parent))
        try:
            _write(model, part, now)
            part.chmod(0o755)  # mkdtemp makes it for this user alone
            _sync_below(part)
            _put_in_place(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as e:
        raise SnapshotError(f"snapshot {folder} cannot be written: {e}") from e


def load_snapshot(folder: Path) -> Model:
    """Read a model after checking the size and SHA-256 of every file.

    Raises:
        SnapshotError: if a file is missing, altered, cut short or not of the snapshot, or the
            format is another one; names the file.
    """
    folder, manifest = _found(folder)
    _check_files(folder, manifest["files"])
    try:
        return _read(folder, manifest)
    except (SteerecError, OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise _not_for_us(folder, manifest, e) from e
    except (ImportError, zipfile.BadZipFile) as e:
        raise _not_for_us(folder, manifest, e) from e


def check_snapshot(folder: Path) -> None:
    """Make sure that a folder is a snapshot, before anything else is begun; files are not read.

    Raises:
        SnapshotError: if it is none, or of another format.
    """
    _found(folder)


def _found(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Where the snapshot stands now, and its manifest."""
    try:
        if not folder.exists() and _aside(folder).exists():
            folder = _aside(folder)
    except PermissionError as e:
        raise SnapshotError(f"{folder} may not be read ({e}): change its permissions") from e
    return folder, _read_manifest(folder)


def _not_for_us(folder: Path, manifest: Mapping[str, Any], why: Exception) -> SnapshotError:
    return SnapshotError(
        f"snapshot {folder} is whole, but steerec {__version__} cannot use what "
        f"{manifest.get('steerec')} wrote ({type(why).__name__}: {why}): fit the model again"
    )


def _check_target(folder: Path) -> None:
    if not folder.exists() or (folder / MANIFEST).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise SnapshotError(f"{folder} exists and is no snapshot: name another folder")


def _aside(folder: Path) -> Path:
    """Where the older snapshot stands for the moment in which the new one takes its place."""
    return folder.with_name(f".{folder.name}.old")


def _clear_after_a_kill(folder: Path) -> None:
    """Put an older snapshot back that stands aside, and remove parts that were never finished."""
    aside = _aside(folder)
    if aside.exists() and not folder.exists():
        aside.rename(folder)
    for left in (aside, *folder.parent.glob(f".{escape(folder.name)}.part.*")):
        shutil.rmtree(left, ignore_errors=True)


def _put_in_place(part: Path, folder: Path) -> None:
    """Rename; an older snapshot steps aside first, since a folder replaces only an empty one."""
    aside = _aside(folder)
    if folder.exists():
        folder.rename(aside)
    try:
        part.rename(folder)
    except OSError:
        if aside.exists():
            aside.rename(folder)
        raise
    _sync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)  # what is left is cleared by the next save


def _sync_below(folder: Path) -> None:
    """Wait until all files below, and the folders that name them, are on the disk."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folder, and keeps their names by itself
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(model: Model, folder: Path, now: float | None) -> None:
    model.data.save(folder / "dataset")
    for name, head in model.heads.items():
        place = folder / _head_folder(name)
        place.mkdir(parents=True)
        head.save(place)
    np.save(folder / "phi.npy", model.phi.projection, allow_pickle=False)
    if model.fused is not None:
        model.fused.save(folder / FUSED)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "steerec": __version__,
        "created": None if now is None else datetime.fromtimestamp(now, UTC).isoformat(),
        "data_hash": model.data.content_hash,
        "heads": list(model.heads),
        "repeats": model.repeats,
        "seconds": dict(model.seconds),
        "calibrations": {n: calibration_to_json(c) for n, c in model.calibrations.items()},
        "phi": {
            "config": vars(model.phi.config),
            "names": model.phi.names,
            "taste_from": model.phi.taste_from,
            "since_fit": model.phi.fitted is not None,
        },
        "strategy": _strategy_to_json(model.strategy),
        "files": {
            name: {"bytes": (folder / name).stat().st_size, "sha256": digest}
            for name, digest in _digests(folder, _files_in(folder)).items()
        },
    }
    manifest["digest"] = _digest_of(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False), "utf-8")


def _head_folder(name: str) -> str:
    """Where a head lies; `module:Class` without the colon, which some file systems refuse."""
    return f"heads/{name.replace(':', '-')}"


def _strategy_to_json(strategy: Strategy) -> dict[str, Any]:
    return {
        "version": strategy.version,
        "heads": strategy.heads,
        "features": strategy.features,
        "theta": strategy.theta.tolist(),
        "dials": dict(strategy.dials),
    }


def _digest_of(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over the manifest's content, its own digest apart."""
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as e:
        raise SnapshotError(
            f"{folder} is no snapshot: it has no {MANIFEST}; name a folder that `train` wrote"
        ) from e
    except (OSError, ValueError) as e:
        raise SnapshotError(f"{path} cannot be read ({e}): {_REMEDY}") from e
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise SnapshotError(f"{path} is not the manifest of a snapshot: {_REMEDY}")
    if manifest["format"] != FORMAT:
        raise SnapshotError(
            f"{path} has format {manifest['format']}, this steerec {__version__} reads {FORMAT}: "
            "fit the model again, or use the version that wrote it"
        )
    if manifest.get("digest") != _digest_of(manifest):
        raise SnapshotError(f"{path} was altered: {_REMEDY}")
    return manifest


def _check_files(folder: Path, told: Mapping[str, Mapping[str, Any]]) -> None:
    found = set(_files_in(folder)) - {MANIFEST}
    for name in sorted(set(told) - found):
        raise SnapshotError(f"snapshot {folder}: {name} is missing: {_REMEDY}")
    for name in sorted(found - set(told)):
        raise SnapshotError(f"snapshot {folder}: {name} does not belong to it: take it out")
    for name, about in told.items():
        size = (folder / name).stat().st_size
        if size != about["bytes"]:
            raise SnapshotError(
                f"snapshot {folder}: {name} has {size} bytes, expected {about['bytes']}: {_REMEDY}"
            )
    for name, digest in _digests(folder, sorted(told)).items():
        if digest != told[name]["sha256"]:
            raise SnapshotError(f"snapshot {folder}: {name} was altered (SHA-256): {_REMEDY}")


def _files_in(folder: Path) -> list[str]:
    """Names of all files below, in order, with forward slashes."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


def _digests(folder: Path, names: list[str]) -> dict[str, str]:
    """SHA-256 of each file; on several cores, since hashing gives the interpreter lock back."""

    def digest(name: str) -> str:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            return dict(zip(names, threads.map(digest, names), strict=True))
    except OSError as e:
        raise SnapshotError(f"snapshot {folder}: {e}: check its permissions") from e


def _read(folder: Path, manifest: Mapping[str, Any]) -> Model:
    data = Dataset.load(folder / "dataset")
    if data.content_hash != manifest["data_hash"]:
        raise DataError("dataset is not the one the model was fitted on")
    heads = {name: load_head(name).load(folder / _head_folder(name)) for name in manifest["heads"]}
    phi: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in manifest["phi"]["config"].items()
    }
    places = np.load(folder / "phi.npy", allow_pickle=False)
    fitted = np.diff(data.starts) if manifest["phi"].get("since_fit") else None
    told = manifest["strategy"]
    strategy = Strategy(
        heads=tuple(told["heads"]),
        features=tuple(told["features"]),
        theta=np.array(told["theta"], np.float64),
        version=told["version"],
        dials=told["dials"],
    )
    return Model(
        data=data,
        heads=heads,
        calibrations={n: calibration_from_json(c) for n, c in manifest["calibrations"].items()},
        phi=Phi(PhiConfig(**phi), places, manifest["phi"].get("taste_from", 1), fitted),
        strategy=strategy,
        repeats=manifest["repeats"],
        seconds=manifest["seconds"],
        fused=Fused.load(folder / FUSED) if FUSED in manifest["files"] else None,
    )
