"""Numbers with their noun, as a person says them: 1 user, 2 users, 12,000 users."""


def counted(n: int, noun: str) -> str:
    """The number with its noun; `noun` is the singular and its plural ends in s."""
    return f"{n:,} {noun_of(n, noun)}"


def noun_of(n: float, noun: str) -> str:
    """The noun for so many, where the number itself stands elsewhere."""
    return noun if n == 1 else noun + "s"


def percent(part: int, whole: int) -> str:
    """The share as per cent; small ones are not told as nothing."""
    share = part / whole
    return "under 0.1 %" if share < 0.001 else f"{share:.1%}"
