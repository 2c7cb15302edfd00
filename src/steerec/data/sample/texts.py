"""Titles and descriptions of the sample shop's products, and its brands."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steerec.data.sample.lexicon import Lexicon, ProductType, Style

_BRANDS_PER_DEPARTMENT = 6


@dataclass(frozen=True)
class Brand:
    """A maker with a price tier (0 budget to 2 premium) and a look of its own."""

    name: str
    tier: int
    style: int


@dataclass(frozen=True)
class Wording:
    """What the shop says about one product; colour and material None where senseless."""

    title: str
    description: str
    colour: str | None
    material: str | None


def make_brands(lexicon: Lexicon, rng: np.random.Generator) -> dict[str, list[Brand]]:
    """Invent brands for each department, names unique over the shop."""
    taken: set[str] = set()
    shelves: dict[str, list[Brand]] = {}
    for department in dict.fromkeys(kind.department for kind in lexicon.types):
        shelves[department] = [
            Brand(_new_name(lexicon, rng, taken), tier % 3, int(rng.integers(len(lexicon.styles))))
            for tier in range(_BRANDS_PER_DEPARTMENT)
        ]
    return shelves


def _new_name(lexicon: Lexicon, rng: np.random.Generator, taken: set[str]) -> str:
    while True:
        name = "".join(_pick(rng, part) for part in lexicon.brand_syllables).capitalize()
        if name not in taken:
            taken.add(name)
            return name


class Copywriter:
    """Writes products' texts and remembers the titles it has given out."""

    def __init__(self, lexicon: Lexicon, rng: np.random.Generator) -> None:
        self._lexicon = lexicon
        self._rng = rng
        self._titles: set[str] = set()

    def write(self, kind: ProductType, style: Style, brand: Brand, variant: int) -> Wording:
        """One product's wording; its title was not given out before."""
        rng = self._rng
        material = _pick(rng, self._lexicon.materials[kind.of]) if kind.of else None
        colour = _pick(rng, style.colours) if kind.of else None
        features = rng.permutation(len(kind.features))
        uses = rng.permutation(len(kind.uses))
        slots = {
            "brand": brand.name,
            "word": _pick(rng, style.words),
            "variant": kind.variants[variant],
            "noun": kind.noun,
            "colour": colour,
            "material": material,
            "number": str(rng.integers(2, 99)),
            "feature": kind.features[features[0]],
            "feature2": kind.features[features[1]],
            "use": kind.uses[uses[0]],
            "use2": kind.uses[uses[1]],
            "tier": _pick(rng, list(self._lexicon.tiers.values())[brand.tier]),
        }
        title = self._title(slots, "titles" if kind.of else "plain_titles")
        return Wording(title, self._description(slots, kind, style), colour, material)

    def _title(self, slots: dict[str, str | None], pattern: str) -> str:
        title = _capital(_pick(self._rng, self._lexicon.templates[pattern]).format(**slots))
        number = 2
        first = title
        while title in self._titles:
            again = self._lexicon.templates["repeat_title"][0]
            title = again.format(title=first, number=number)
            number += 1
        self._titles.add(title)
        return title

    def _description(self, slots: dict[str, str | None], kind: ProductType, style: Style) -> str:
        rng, templates = self._rng, self._lexicon.templates
        lead = _pick(rng, templates["leads" if kind.of else "plain_leads"])
        opening = lead.removeprefix("{brand} makes this ").split("{a}", 1)[-1].format(**slots)
        article = "" if kind.many or not self._lexicon.articles else _article(opening)
        if kind.many:
            lead = lead.replace("makes this", "makes these" if kind.noun.endswith("s") else "makes")
        lines = style.lines if kind.of else style.plain_lines
        sentences = [lead.format(a=article, **slots), _pick(rng, lines)]
        if rng.random() < 0.8:  # some products stay with two sentences
            sentences.append(_pick(rng, templates["purposes"]).format(**slots))
        return self._lexicon.joiner.join(_capital(sentence) for sentence in sentences)


def _article(opening: str) -> str:
    return "an " if opening[0].lower() in "aeiou" else "a "


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.random() * len(choices))]
