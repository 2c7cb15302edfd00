"""Whether the world has turned from what the learner foretells."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drift:
    """A cumulative sum of how much more the model promises than comes.

    Slates are chosen for what is foretold of them, so that a world that turns shows first as
    broken promises: Σ(p − y) rises, of mean 0 and variance Σp(1 − p) while the model holds.
    Log loss would not tell: where clicks are rare, fewer than foretold lower it.

    Attributes:
        level: of the sum; an alarm puts it back to 0.
        rows_left: rows for which forgetting stays raised.
        rows_seen: rows so far; the first ones teach and raise no alarm.
    Source: Page 1954 (cumulative sum); Gama et al. 2014, section 3.2, on watching errors.
    """

    level: float = 0.0
    rows_left: float = 0.0
    rows_seen: float = 0.0

    def after(
        self, promised: float, *, excess: float, variance: float, rows: float, config: "DriftConfig"
    ) -> "Drift":
        """The state after an epoch's rows: sums of p, of p − y and of p(1 − p)."""
        left = max(self.rows_left - rows, 0.0)
        seen = self.rows_seen + rows
        if rows <= 0 or variance <= 0 or seen <= config.first_rows:
            return Drift(self.level, left, seen)
        over = (excess - config.slack * promised) / variance**0.5
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
    slack: float = 0.1  # share of what is promised that may always be missing
    rows: float = 20_000.0  # shown items for which forgetting stays raised

    first_rows: float = 5_000.0  # shown items before the first alarm

    def __post_init__(self) -> None:
        if min(self.alarm, self.allowance, self.slack, self.rows, self.first_rows) < 0:
            raise ValueError("drift: no setting may be below 0")
