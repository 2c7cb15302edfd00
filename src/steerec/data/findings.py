"""One finding of the doctor."""

from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["ok", "notice", "warning"]
OK: Severity = "ok"
NOTICE: Severity = "notice"
WARNING: Severity = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was seen, and what to do.

    Attributes:
        code: permanent name of the check, for machines.
        detail: the figures behind it; remedy: what to do, empty if nothing.
    """

    code: str
    severity: Severity
    title: str
    detail: str
    remedy: str

    def as_json(self) -> dict[str, str]:
        """The same as plain values."""
        return asdict(self)
