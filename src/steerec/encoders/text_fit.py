"""Whether texts suit an encoder that reads English only; `doctor` reports it."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from steerec.encoders.settings import is_blank

_FOREIGN_SHARE = 0.3  # of a text's letters; a few accents or one foreign name do no harm
_CHARS_PER_TOKEN = 4.0  # English word pieces, on average
_WARN_SHARE = 0.1


@dataclass(frozen=True)
class TextFit:
    """Shares of all texts, 0 to 1.

    Attributes:
        n: number of texts.
        empty: no text at all.
        foreign: mostly letters of another script than Latin.
        too_long: longer than the encoder reads; estimated from the length.
        distinct: different texts among those that are not empty; 1 / n means all are equal.
    """

    n: int
    empty: float
    foreign: float
    too_long: float
    distinct: float

    def warnings(self) -> list[str]:
        """One sentence for each thing that should be looked at."""
        found = []
        if self.foreign > _WARN_SHARE:
            found.append(
                f"{self.foreign:.0%} of the texts are not in Latin script; the default encoder "
                "reads English only: name a multilingual encoder.model"
            )
        if self.empty > _WARN_SHARE:
            found.append(f"{self.empty:.0%} of the items have no text: check the template")
        if self.too_long > _WARN_SHARE:
            found.append(
                f"about {self.too_long:.0%} of the texts are cut: put what matters first, or "
                "raise encoder.max_tokens"
            )
        if self.n * (1 - self.empty) > 1 and self.distinct * self.n * (1 - self.empty) < 1.5:
            found.append("all texts are equal: the template leaves out what tells items apart")
        return found


def fit_of_texts(texts: Sequence[str], *, max_tokens: int = 128) -> TextFit:
    """Measure how texts suit an English encoder; all shares are 0 when there are no texts."""
    filled = [text for text in texts if not is_blank(text)]
    n = len(texts)
    return TextFit(
        n=n,
        empty=(n - len(filled)) / n if n else 0.0,
        foreign=sum(_is_foreign(t) for t in filled) / n if n else 0.0,
        too_long=sum(_tokens(t) > max_tokens for t in filled) / n if n else 0.0,
        distinct=len(set(filled)) / len(filled) if filled else 0.0,
    )


def _is_foreign(text: str) -> bool:
    if text.isascii():
        return False
    letters = [c for c in text if c.isalpha()]
    foreign = sum(not unicodedata.name(c, "").startswith("LATIN") for c in letters)
    return bool(letters) and foreign / len(letters) > _FOREIGN_SHARE


def _tokens(text: str) -> float:
    """Word pieces, roughly: Latin words by length, other letters about one each."""
    plain = sum(c.isascii() for c in text)
    return plain / _CHARS_PER_TOKEN + (len(text) - plain)
