"""Whether the world has turned from what the learner foretells."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drift:
    """A cumulative sum of how much worse than it claims the model foretells.

    With η the log-odds and p = σ(η), log loss less its expectation under the model is (p − y)η,
    of mean 0 and variance p(1 − p)η² while the model holds; it grows when scores come to tell
    less than they did, or the level of rewards moves.

    Attributes:
        level: of the sum; an alarm puts it back to 0.
        rows_left: rows for which forgetting stays raised.
        rows_seen: rows so far; the first ones teach and raise no alarm.
    Source: Page 1954 (cumulative sum); Gama et al. 2014, section 3.2, on watching the loss.
    """

    level: float = 0.0
    rows_left: float = 0.0
    rows_seen: float = 0.0

    def after(
        self, *, excess: float, variance: float, rows: float, config: "DriftConfig"
    ) -> "Drift":
        """The state after an epoch's rows: sums of (p − y)η and of its variance."""
        left = max(self.rows_left - rows, 0.0)
        seen = self.rows_seen + rows
        if rows <= 0 or variance <= 0 or seen <= config.first_rows:
            return Drift(self.level, left, seen)
        over = (excess - config.slack_nats * rows) / variance**0.5
        level = max(0.0, self.level + over - config.allowance)
        if level > config.alarm:
            return Drift(0.0, config.rows, seen)
        return Drift(level, left, seen)

    @property
    def raised(self) -> bool:
        """Whether forgetting is raised."""
        return self.rows_left > 0


@dataclass(frozen=True, kw_only=True)
class DriftConfig:
    """Settings of the drift alarm."""

    alarm: float = 8.0  # level of the sum, in standard deviations of one epoch
    allowance: float = 0.5  # standard deviations taken off each epoch
    slack_nats: float = 0.005  # of a row's log loss, that no model is right by
    rows: float = 20_000.0  # shown items for which forgetting stays raised

    first_rows: float = 5_000.0  # shown items before the first alarm

    def __post_init__(self) -> None:
        if min(self.alarm, self.allowance, self.slack_nats, self.rows, self.first_rows) < 0:
            raise ValueError("drift: no setting may be below 0")
