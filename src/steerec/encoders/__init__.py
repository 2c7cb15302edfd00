"""Texts and attributes into vectors, cached on disk; encoders are chosen by name."""

from importlib import import_module
from pathlib import Path
from typing import Any

from steerec.contracts import Encoder
from steerec.encoders.settings import EncoderConfig
from steerec.errors import ConfigError

__all__ = ["ENCODERS", "EncoderConfig", "load_encoder", "open_encoder"]

ENCODERS: dict[str, str] = {
    "text": "steerec.encoders.text:SentenceEncoder",
    "onnx": "steerec.encoders.onnx:OnnxEncoder",
    "remote": "steerec.encoders.remote:RemoteEncoder",
    "hashing": "steerec.encoders.hashing:HashingEncoder",
}


def load_encoder(name: str) -> Any:
    """The encoder class of this name; `module:Class` names one of your own.

    Raises:
        ConfigError: if no encoder has the name.
    """
    if name not in ENCODERS and ":" not in name:
        raise ConfigError(f"no encoder is called {name!r}; there are {', '.join(ENCODERS)}")
    module, _, attribute = ENCODERS.get(name, name).partition(":")
    return getattr(import_module(module), attribute)


def open_encoder(config: EncoderConfig, *, cache_dir: Path | None) -> Encoder:
    """The configured encoder; with a cache folder, what it encoded once it never encodes again.

    Raises:
        ConfigError: if no encoder has the name, or a setting it needs is missing.
        EncoderError: if its model cannot be found or is not the published one.
    """
    encoder: Encoder = load_encoder(config.encoder).open(config, cache_dir)
    if cache_dir is None:
        return encoder
    from steerec.encoders.cache import CachedEncoder

    return CachedEncoder(encoder, cache_dir, most_mb=config.cache_mb)
