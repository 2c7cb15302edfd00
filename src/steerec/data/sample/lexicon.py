"""The sample shop's vocabulary: read from the word lists beside this file."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

Words = tuple[str, ...]


@dataclass(frozen=True)
class ProductType:
    """One kind of product, such as kettles.

    Attributes:
        price: middle of its price range, in the shop's currency.
        of: group of materials, empty where a material makes no sense.
        interests: hobbies that lead people here.
        partners: types that go with it.
        months: season, 1 to 12; empty: sells all year.
        every_days: days until people buy it again; None for what is bought once.
    """

    name: str
    department: str
    noun: str
    price: float
    variants: Words
    features: Words
    uses: Words
    interests: Words
    partners: Words = ()
    of: str = ""
    many: bool = False
    months: tuple[int, ...] = ()
    every_days: float | None = None


@dataclass(frozen=True)
class Style:
    """A look shared by products of all types: title words, colours, sentences.

    Attributes:
        plain_lines: sentences for goods without a material, such as food.
    """

    words: Words
    colours: Words
    lines: Words
    plain_lines: Words


@dataclass(frozen=True)
class Lexicon:
    """Everything a shop can say, in one language.

    Attributes:
        templates: sentence and title patterns by name.
        tiers: price tier → phrases, cheapest first.
        leans: interest → kinds of people who lean towards it.
        cities: city → kind of place.
    """

    item_prefix: str
    joiner: str
    articles: bool
    templates: Mapping[str, Words]
    brand_syllables: tuple[Words, Words, Words]
    tiers: Mapping[str, Words]
    styles: tuple[Style, ...]
    materials: Mapping[str, Words]
    cities: Mapping[str, str]
    leans: Mapping[str, Words]
    types: tuple[ProductType, ...] = field(repr=False)

    @property
    def interests(self) -> Words:
        """All interests, in order of first mention."""
        return tuple(dict.fromkeys(name for kind in self.types for name in kind.interests))


def load_lexicon(name: str) -> Lexicon:
    """Read a word list of this package, for example `words.toml`."""
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    raw = tomllib.loads(text)
    shop, brands = raw["shop"], raw["brands"]
    return Lexicon(
        item_prefix=shop["id"],
        joiner=shop["joiner"],
        articles=shop["articles"],
        templates={key: _words(shop[key]) for key in _TEMPLATES},
        brand_syllables=(_words(brands["first"]), _words(brands["middle"]), _words(brands["last"])),
        tiers={key: _words(phrases) for key, phrases in raw["tiers"].items()},
        styles=tuple(
            Style(**{key: _words(phrases) for key, phrases in style.items()})
            for style in raw["styles"].values()
        ),
        materials={key: _words(names) for key, names in raw["materials"].items()},
        cities=raw["cities"],
        leans={key: _words(people) for key, people in raw["leans"].items()},
        types=tuple(
            _product_type(name, department, entry)
            for department, entries in raw["types"].items()
            for name, entry in entries.items()
        ),
    )


_TEMPLATES = ("titles", "plain_titles", "leads", "plain_leads", "purposes", "repeat_title")


def _product_type(name: str, department: str, entry: Mapping[str, Any]) -> ProductType:
    return ProductType(
        name=name,
        department=department,
        noun=entry["noun"],
        price=float(entry["price"]),
        variants=_words(entry["variants"]),
        features=_words(entry["features"]),
        uses=_words(entry["uses"]),
        interests=_words(entry["interests"]),
        partners=_words(entry.get("with", "")),
        of=entry.get("of", ""),
        many=entry.get("many", False),
        months=tuple(entry.get("months", ())),
        every_days=entry.get("every_days"),
    )


def _words(joined: str) -> Words:
    return tuple(joined.split(" / ")) if joined else ()
