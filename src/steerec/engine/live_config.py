"""What a live engine is told beside its model: placements, and how it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from steerec.engine.conditions import parse
from steerec.engine.online import TuningConfig
from steerec.engine.phi import PhiConfig
from steerec.engine.pool import PoolConfig
from steerec.engine.sampler import SamplerConfig
from steerec.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class ScenarioConfig:
    """How one placement answers where a request says nothing else.

    Attributes:
        condition: an expression that every item must fulfil, such as `price < 20`.
        repeats: whether items of the user's own history may be shown; not set: as fitted.
    """

    n: int = 10  # length of the list
    temperature: float = 0.0  # exploration, in nats: 0 shows the best list
    diversity: float = 0.0  # nats an item loses that is the same as one above it
    condition: str = ""
    repeats: bool | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"scenario: n={self.n}: expected at least 1")
        SamplerConfig(temperature=self.temperature, diversity=self.diversity)
        if self.condition:
            try:
                parse(self.condition)
            except DataError as e:
                raise ConfigError(f"scenario: condition={self.condition!r}: {e}") from e

    @property
    def draw(self) -> SamplerConfig:
        """What the sampler needs of it."""
        return self.draw_at(self.temperature)

    def draw_at(self, temperature: float) -> SamplerConfig:
        """The same at another temperature."""
        return SamplerConfig(temperature=temperature, diversity=self.diversity)


@dataclass(frozen=True, kw_only=True)
class LiveConfig:
    """What a live engine is told beside its model.

    Attributes:
        scenarios: placement → its settings; others, and requests without, are as `default`.
        create_items: whether an event of an item that was never written makes it.
        compiled: whether compiled loops answer once they are loaded.
        score_cache_mb: see Recommender.
    """

    scenarios: Mapping[str, ScenarioConfig] = field(default_factory=dict)
    default: ScenarioConfig = field(default_factory=ScenarioConfig)
    create_items: bool = True
    compiled: bool = False
    score_cache_mb: float = 64.0
    pool: PoolConfig = field(default_factory=PoolConfig)
    phi: PhiConfig = field(default_factory=PhiConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)

    def scenario(self, name: str | None) -> ScenarioConfig:
        """The settings of a placement."""
        return self.scenarios.get(name or "", self.default)

    def knows(self, name: str) -> bool:
        """Whether any settings speak of this placement; others are answered as `default`."""
        named = {"default", *self.phi.scenarios, *self.tuning.exploration.scenarios}
        return name in self.scenarios or name in named
