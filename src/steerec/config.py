"""All settings in one tree: the file steerec.toml, then the environment for what a host decides."""

import difflib
import json
import math
import os
import platform
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from steerec.data.dataset import DEFAULT_WEIGHTS
from steerec.data.mapping import check_mapping
from steerec.data.rules import CleanConfig
from steerec.encoders import EncoderConfig
from steerec.encoders.finetuned import FineTuneConfig
from steerec.engine.blend import BlendConfig
from steerec.engine.calibrate import CalibrationConfig
from steerec.engine.live_config import LiveConfig, ScenarioConfig
from steerec.engine.model import FitConfig
from steerec.engine.online import TuningConfig
from steerec.engine.phi import PhiConfig
from steerec.engine.pool import PoolConfig
from steerec.errors import ConfigError, DataError
from steerec.heads import HEADS, expand, load_head
from steerec.store.retention import RetentionConfig

DEFAULT_FILE = Path("steerec.toml")


def user_cache_dir() -> Path:
    """Where this system keeps what programs can make again."""
    home = Path.home()
    if platform.system() == "Windows":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "steerec"
    if platform.system() == "Darwin":
        return home / "Library" / "Caches" / "steerec"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "steerec"


class Deployment(BaseSettings):
    """What differs from host to host; STEEREC_DATA_DIR and the like win over the file."""

    model_config = SettingsConfigDict(
        env_prefix="STEEREC_", env_ignore_empty=True, frozen=True, extra="ignore"
    )
    data_dir: Path | None = None  # folder in which data sets are looked for by name
    cache_dir: Path | None = None  # folder of vectors and downloads; not set: the user's cache
    database_url: str | None = None  # sqlite:///file.db or postgresql://…; not set: steerec.db here
    redis_url: str | None = None  # redis://…, for several processes; not set: this one alone

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before the file's values, which come as arguments."""
        return env_settings, init_settings


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How data are read.

    Attributes:
        template: text of an item, such as "{title}. {description}"; empty: from its text columns.
        columns: canonical field → column of the source; the rest is guessed.
        weights: event kind → weight, negative for dislike, on top of the defaults; kinds that
            neither names weigh 1.
    """

    template: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            check_mapping(self.columns)
        except DataError as e:
            raise ConfigError(f"columns: {e}") from e
        object.__setattr__(self, "weights", {**DEFAULT_WEIGHTS, **self.weights})


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Which heads are fitted, and how cases are set aside for their calibration and blend.

    Attributes:
        heads: all, quick (those that do not train by epochs), trained, names from the table of
            heads, or `module:Class` of your own.
        holdout: auto, last (each user's last event), time or basket; auto: by basket where most
            events go on with one.
        holdout_quantile: share of the time line that lies before the held-out cases.
        repeats: whether items of a user's own history may be recommended; not set: as the data do.
        only_new: held-out baskets count only items that are new to their user.
        refit: heads that train by epochs continue on held-out events, train again in full, or
            never.
        refit_share: share of the epochs for which they continue.
        drop_idle: leave heads out that do not help on held-out events.
    """

    heads: tuple[str, ...] = ("quick", "sequence")
    holdout: str = "auto"
    holdout_quantile: float = 0.9
    repeats: bool | None = None
    only_new: bool = False
    refit: str = "continue"
    refit_share: float = 0.25
    drop_idle: bool = False


@dataclass(frozen=True, kw_only=True)
class StreamsConfig:
    """Events that come by other ways than HTTP.

    Attributes:
        redis_stream: Redis Stream to read, at STEEREC_REDIS_URL; empty: none.
        kafka_servers: such as `kafka-1:9092,kafka-2:9092`; empty: none.
        group: of consumers; services of one group share the events among them.
    """

    redis_stream: str = ""
    kafka_servers: str = ""
    kafka_topic: str = "events"  # topic whose records are events
    group: str = "steerec"
    tenant: str = "default"  # whose events they are
    at_once: int = 500  # events stored together

    def __post_init__(self) -> None:
        if self.at_once < 1 or not self.group or (self.kafka_servers and not self.kafka_topic):
            raise ConfigError(
                f"streams: at_once={self.at_once}, group={self.group!r}, kafka_topic="
                f"{self.kafka_topic!r}: expected at least 1, and names"
            )


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """How `steerec serve` listens, and what it refuses.

    Attributes:
        keys: whether callers need an API key; without, it listens on this machine only.
        workers: processes that answer, over one file of SQLite, or PostgreSQL and Redis.
        snapshots: folder of the models that refits make, one below it for each tenant; the newest
            is loaded at the next start. Machines that serve together share it.
    """

    host: str = "127.0.0.1"  # address to listen on
    port: int = 8080  # 0: any free one
    metrics_port: int = 0  # metrics and docs on a port of their own, with health; 0: on the same
    metrics_host: str = ""  # address of metrics_port, which asks for no keys; empty: as host
    traces: str = ""  # collector of OpenTelemetry, as http://collector:4318; empty: no traces
    keys: bool = False
    tls_certificate: Path | None = None  # PEM file; with it, the service speaks HTTPS
    tls_key: Path | None = None  # PEM file of the certificate's key
    most_body_bytes: int = 8_388_608  # longest body but for imports
    calls_per_s: float = 0.0  # calls a second that one key may make on average; 0: any number
    burst: int = 100  # calls at once after a pause, where calls_per_s is set
    create_items: bool = True  # events of items that were never written make them
    compiled: bool = True  # answer by compiled loops, once they are loaded; false: by NumPy alone
    score_cache_mb: float = 64.0  # scores kept for lists asked again, of each tenant; 0: none
    tune_hour: float = 2.5  # hour of the day, UTC, of the nightly `steerec tune`; below 0: never
    refit_hour: float = 3.0  # hour of the day, UTC, of the nightly refit; below 0: never
    refit_events: int = 200  # events after which a service that began with nothing fits first
    refit_threads: int = 1  # threads a refit computes on, at low priority
    workers: int = 1
    snapshots: Path = Path("snapshots")
    snapshots_kept: int = 2  # of each tenant; older ones hold erased persons' data for longer
    retention: RetentionConfig = field(default_factory=RetentionConfig)  # what the store keeps
    streams: StreamsConfig = field(default_factory=StreamsConfig)  # events beside HTTP

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65_536 or not 0 <= self.metrics_port < 65_536:
            raise ConfigError(f"port={self.port}, metrics_port={self.metrics_port}: below 65536")
        if self.traces and not self.traces.startswith(("http://", "https://")):
            raise ConfigError(f"traces={self.traces!r}: expected http:// or https:// and a host")
        if self.most_body_bytes < 1_024 or self.calls_per_s < 0 or self.burst < 1:
            raise ConfigError(
                f"most_body_bytes={self.most_body_bytes}, calls_per_s={self.calls_per_s}, burst="
                f"{self.burst}: expected at least 1024, 0 and 1"
            )
        if not 0 <= self.score_cache_mb < math.inf:
            raise ConfigError(f"score_cache_mb={self.score_cache_mb}: expected at least 0")
        if max(self.tune_hour, self.refit_hour) >= 24 or self.refit_events < 1:
            raise ConfigError(
                f"tune_hour={self.tune_hour}, refit_hour={self.refit_hour}, refit_events="
                f"{self.refit_events}: expected hours below 24, and at least 1 event"
            )
        if min(self.refit_threads, self.workers, self.snapshots_kept) < 1:
            raise ConfigError(
                f"refit_threads={self.refit_threads}, workers={self.workers}, snapshots_kept="
                f"{self.snapshots_kept}: expected at least 1"
            )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError(
                f"tls_certificate={self.tls_certificate}, tls_key={self.tls_key}: give both or none"
            )
        if not self.keys and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ConfigError(
                f"host={self.host!r} without keys would let everybody in: set keys = true and make "
                "one with `steerec key create`, or listen on 127.0.0.1"
            )

    @property
    def addresses(self) -> tuple[str, str]:
        """Where it answers, and where its docs are."""
        where = f"{'https' if self.tls_key else 'http'}://{_host(self.host)}:{self.port}"
        if self.metrics_port == 0:
            return where, f"{where}/docs"
        return where, f"http://{_host(self.metrics_host or self.host)}:{self.metrics_port}/docs"


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The whole tree; a section is a table of steerec.toml.

    Attributes:
        heads: head name → its settings, as far as they differ from the defaults.
        scenarios: placement → how it answers; `default` is for all others.
    """

    deployment: Deployment = field(default_factory=Deployment)
    data: DataConfig = field(default_factory=DataConfig)
    clean: CleanConfig = field(default_factory=CleanConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    finetune: FineTuneConfig = field(default_factory=FineTuneConfig)
    fit: FitSettings = field(default_factory=FitSettings)
    heads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    blend: BlendConfig = field(default_factory=BlendConfig)
    phi: PhiConfig = field(default_factory=PhiConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    service: ServiceConfig = field(default_factory=ServiceConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    scenarios: Mapping[str, ScenarioConfig] = field(default_factory=dict)

    def live_config(self) -> LiveConfig:
        """The settings of a live engine."""
        named = {name: one for name, one in self.scenarios.items() if name != "default"}
        default = self.scenarios.get("default", ScenarioConfig())
        phi = replace(self.phi, scenarios=self.phi.scenarios or tuple(named))
        return LiveConfig(
            scenarios=named,
            default=default,
            create_items=self.service.create_items,
            compiled=self.service.compiled,
            score_cache_mb=self.service.score_cache_mb,
            pool=self.pool,
            phi=phi,
            tuning=self.tuning,
        )

    @property
    def cache_dir(self) -> Path:
        """Where vectors and downloads are kept."""
        return self.deployment.cache_dir or user_cache_dir()

    def fit_config(self, heads: tuple[str, ...] = ()) -> FitConfig:
        """The settings of a fit, of all configured heads or of these.

        Raises:
            ConfigError: if a head is unknown or the parts contradict each other.
        """
        names = expand(heads or self.fit.heads)
        for name in names:
            load_head(name)
        parts = {f.name: getattr(self.fit, f.name) for f in fields(self.fit)}
        return FitConfig(
            **{**parts, "heads": names},
            settings={n: s for n, s in self.heads.items() if n in names},
            calibration=self.calibration,
            blend=self.blend,
            phi=self.phi,
            pool=self.pool,
        )


# Section → the class that holds it; `heads` has one class for each head.
SECTIONS: Mapping[str, type] = {
    "deployment": Deployment,
    "data": DataConfig,
    "clean": CleanConfig,
    "encoder": EncoderConfig,
    "finetune": FineTuneConfig,
    "fit": FitSettings,
    "calibration": CalibrationConfig,
    "blend": BlendConfig,
    "phi": PhiConfig,
    "pool": PoolConfig,
    "service": ServiceConfig,
    "tuning": TuningConfig,
}


def load_settings(file: Path | None = None) -> Settings:
    """Read settings from `file`, or from steerec.toml here if there is one; the rest is default.

    Raises:
        ConfigError: if the file cannot be read, or a setting is unknown or out of range.
    """
    if file is None:
        return parse_settings(_toml(DEFAULT_FILE) if DEFAULT_FILE.is_file() else {})
    return parse_settings(_toml(file))


def parse_settings(raw: Mapping[str, Any]) -> Settings:
    """Settings from nested tables, as TOML gives them.

    Raises:
        ConfigError: if a setting is unknown, of a wrong type or out of range; names it.
    """
    _check_known("", raw, [*SECTIONS, "heads", "scenarios"])
    sections = {
        name: _section(name, kind, _table(name, raw.get(name, {})))
        for name, kind in SECTIONS.items()
    }
    heads = _table("heads", raw.get("heads", {}))
    scenarios = {
        name: _section(f"scenarios.{name}", ScenarioConfig, _table(f"scenarios.{name}", given))
        for name, given in _table("scenarios", raw.get("scenarios", {})).items()
    }
    return Settings(**sections, heads=dict(_heads(heads)), scenarios=scenarios)


def head_config_class(name: str) -> type:
    """The settings class of a head.

    Raises:
        ConfigError: if no head has the name.
    """
    kind = load_head(name)
    found: type = getattr(import_module(kind.__module__), f"{kind.__name__}Config")
    return found


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"settings file {file} cannot be read ({e}): check the path") from e
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"settings file {file} is no valid TOML: {e}") from e


def _table(name: str, raw: object) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{name} = {raw!r}: expected a table, [{name}]")
    return raw


def _heads(raw: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each head's given settings, nested ones as objects."""
    _check_known("heads", [n for n in raw if ":" not in n], list(HEADS))
    for name, given in raw.items():
        path = f"heads.{name}"
        made = _section(path, head_config_class(name), _table(path, given))
        yield name, {key: getattr(made, key) for key in given}


def _section(path: str, kind: type, raw: Mapping[str, Any]) -> Any:
    """One table as an object of its class."""
    _check_keys(path, kind, raw)
    try:
        # TOML tells types apart, so a text is no number; JSON's strict mode has lists for tuples.
        if kind is Deployment:
            return Deployment(**raw)
        return TypeAdapter(kind).validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join([path, *(str(part) for part in first["loc"])])
        raise ConfigError(f"{where} = {first['input']!r}: {first['msg'].lower()}") from e
    except ConfigError as e:
        raise ConfigError(f"[{path}] {e}") from e


def _check_keys(path: str, kind: type, raw: Mapping[str, Any]) -> None:
    known = _keys_of(kind)
    _check_known(path, raw, list(known))
    for key, value in raw.items():
        if isinstance(known[key], type) and is_dataclass(known[key]):
            _check_keys(f"{path}.{key}", known[key], _table(f"{path}.{key}", value))


def _keys_of(kind: type) -> Mapping[str, Any]:
    """Setting → its type."""
    if kind is Deployment:
        return {name: about.annotation for name, about in Deployment.model_fields.items()}
    return {f.name: f.type for f in fields(kind)}


def _check_known(path: str, given: Mapping[str, Any] | list[str], known: list[str]) -> None:
    for name in given:
        if name in known:
            continue
        shown = f"{path}.{name}" if path else name
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        raise ConfigError(f"unknown setting {shown!r}: {hint}")
