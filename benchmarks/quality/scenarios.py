"""The table of scenarios. Ids are permanent: a figure keeps its name for good."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """One set under one protocol and track.

    Attributes:
        data: name of the set's folder in the data directory.
        peers: whether the peers can do it; none of them learns event by event, or reads texts.
        heads: as `--heads` takes them; an id that was measured with some keeps them.
        settings: TOML for `--config`; empty: the defaults.
    """

    data: str
    protocol: str
    track: str
    peers: bool = True
    heads: str = "quick"
    settings: str = ""


SCENARIOS: dict[str, Scenario] = {
    "P1-ml-1m": Scenario("ml-1m", "loo", "time-blind"),
    "P1-ml-1m-aware": Scenario("ml-1m", "loo", "time-aware", peers=False),
    "P1-amazon-beauty": Scenario("amazon-beauty", "loo", "time-blind"),
    "P1-amazon-sports": Scenario("amazon-sports", "loo", "time-blind"),
    "P1-ml-1m-networks": Scenario(
        "ml-1m", "loo", "time-blind", peers=False, heads="quick,sequence"
    ),
    "P1-ml-1m-wide": Scenario(
        "ml-1m",
        "loo",
        "time-blind",
        peers=False,
        heads="quick,sequence",
        settings="[heads.sequence]\nwidth = 96\nepochs = 20\n",
    ),
    "P1-amazon-beauty-networks": Scenario(
        "amazon-beauty", "loo", "time-blind", peers=False, heads="quick,sequence"
    ),
    "P1-ml-100k-two-tower": Scenario(
        "ml-100k", "loo", "time-blind", peers=False, heads="quick,two_tower"
    ),
    "P2-ml-100k-frozen": Scenario("ml-100k", "successive", "frozen"),
    "P2-ml-100k-live": Scenario("ml-100k", "successive", "live", peers=False),
    "P2-ml-1m-frozen": Scenario("ml-1m", "successive", "frozen"),
    "P2-ml-1m-live": Scenario("ml-1m", "successive", "live", peers=False),
    "P2-ml-100k-frozen-networks": Scenario(
        "ml-100k", "successive", "frozen", peers=False, heads="quick,sequence"
    ),
    "P2-ml-100k-live-networks": Scenario(
        "ml-100k", "successive", "live", peers=False, heads="quick,sequence"
    ),
    "P2-ml-1m-frozen-networks": Scenario(
        "ml-1m", "successive", "frozen", peers=False, heads="quick,sequence"
    ),
    "P2-ml-1m-live-networks": Scenario(
        "ml-1m", "successive", "live", peers=False, heads="quick,sequence"
    ),
    "P2b-online-retail-all": Scenario("online-retail", "basket", "all"),
    "P2b-online-retail-new": Scenario("online-retail", "basket", "new"),
    "P3-amazon-beauty": Scenario("amazon-beauty", "cold", "time-blind", peers=False),
    "P3-amazon-beauty-networks": Scenario(
        "amazon-beauty", "cold", "time-blind", peers=False, heads="quick,sequence"
    ),
    "P3-ml-1m": Scenario("ml-1m", "cold", "time-blind", peers=False),
    "P4-ml-100k": Scenario("ml-100k", "stream", "live", peers=False),
    "P4-ml-1m": Scenario("ml-1m", "stream", "live", peers=False),
    "P4-online-retail": Scenario("online-retail", "stream", "live", peers=False),
    "P4-ml-100k-refit": Scenario("ml-100k", "stream", "refit", peers=False),
    "P4-ml-1m-refit": Scenario("ml-1m", "stream", "refit", peers=False),
}
