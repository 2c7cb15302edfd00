"""Writes steerec.example.toml from the settings classes: `python tests/example_settings.py`."""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

from steerec.config import SECTIONS, Settings, head_config_class
from steerec.data.dataset import DEFAULT_WEIGHTS
from steerec.engine.live_config import ScenarioConfig
from steerec.heads import HEADS

FILE = Path(__file__).parent.parent / "steerec.example.toml"
HEADER = """\
# Every setting of steerec with its default. Copy only what you change into steerec.toml, which the
# commands read where they are started, or name a file with --config. A line that begins with `# `
# and a name shows a setting that has no default. "In baskets": the default where every event
# belongs to a basket; a value that stands in your file wins over both.
"""
# What stands for a setting without a default.
SHOWN = {
    "deployment.data_dir": '"/data/sets"',
    "deployment.cache_dir": '"/var/cache/steerec"',
    "deployment.database_url": '"postgresql://steerec@db/steerec"',
    "deployment.redis_url": '"redis://cache:6379/0"',
    "fit.repeats": "true",
    "service.tls_certificate": '"/etc/steerec/cert.pem"',
    "service.tls_key": '"/etc/steerec/key.pem"',
    "scenarios.default.repeats": "true",
    "heads.user_knn.half_life_days": "45.0",
}


def example_text():
    parts = [HEADER]
    defaults = Settings()
    for name, kind in SECTIONS.items():
        parts.append(_section(name, kind, getattr(defaults, name)))
    for name in HEADS:
        kind = head_config_class(name)
        parts.append(_section(f"heads.{name}", kind, kind()))
    parts.append(_section("scenarios.default", ScenarioConfig, ScenarioConfig()))
    return "\n".join(parts)


def comments(kind):
    """Field → its comment, or its line under Attributes; of the classes below it too."""
    found = {}
    for one in kind.__mro__:
        if is_dataclass(one) or one is kind:
            found = {**_own_comments(one), **found}
    return found


def _own_comments(kind):
    source = textwrap.dedent(inspect.getsource(kind))
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign):
            comment = re.search(r"#\s(.*)$", lines[node.end_lineno - 1])
            if comment:
                found[node.target.id] = comment[1]
    attributes = (inspect.getdoc(kind) or "").partition("Attributes:")[2]
    for names, text in re.findall(
        r"^    ([\w, ]+): (.*(?:\n        .*)*)", attributes, re.MULTILINE
    ):
        for name in names.split(", "):
            found.setdefault(name, re.sub(r"\s+", " ", text).rstrip("."))
    return found


def names_of(kind):
    return list(getattr(kind, "model_fields", None) or [f.name for f in fields(kind)])


def _section(path, kind, values):
    lines, nested, told = [f"[{path}]"], [], comments(kind)
    for name in names_of(kind):
        value = getattr(values, name)
        if is_dataclass(value):
            nested.append(_section(f"{path}.{name}", type(value), value))
        elif f"{path}.{name}" == "data.columns":
            nested.append(_free_table(path, name, told[name], ['# user_id = "customer"']))
        elif f"{path}.{name}" == "data.weights":
            rows = [f"{k} = {v!r}" for k, v in DEFAULT_WEIGHTS.items()]
            nested.append(_free_table(path, name, told[name], rows))
        elif isinstance(value, Mapping):
            rows = [f"{k} = {_toml(v)}" for k, v in value.items()]
            nested.append(_free_table(path, name, told[name], rows))
        else:
            in_baskets = getattr(kind, "FOR_BASKETS", {}).get(name)
            more = "" if in_baskets is None else f"; in baskets {_toml(in_baskets)}"
            lines += _setting(f"{path}.{name}", value, told[name] + more)
    return "\n".join([*lines, "", *nested])


def _setting(path, value, comment):
    name = path.rpartition(".")[2]
    setting = f"# {name} = {SHOWN[path]}" if value is None else f"{name} = {_toml(value)}"
    if len(f"{setting}  # {comment}") <= 100:
        return [f"{setting}  # {comment}"]
    if len(setting) > 100:
        rows = textwrap.wrap(_toml(value).strip("[]"), 90)
        setting = "\n".join([f"{name} = [", *(f"  {row}" for row in rows), "]"])
    return [*_above(comment), setting]


def _free_table(path, name, comment, rows):
    return "\n".join([f"[{path}.{name}]", *_above(comment), *rows, ""])


def _above(comment):
    text = comment[0].upper() + comment[1:]
    return textwrap.wrap(text, 98, initial_indent="# ", subsequent_indent="# ")


def _toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:_}" if abs(value) >= 10_000 else repr(value)
    if isinstance(value, str | Path):
        return json.dumps(str(value))
    if is_dataclass(value):
        parts = [f"{n} = {_toml(getattr(value, n))}" for n in names_of(type(value))]
        return f"{{ {', '.join(parts)} }}"
    return f"[{', '.join(_toml(v) for v in value)}]"


if __name__ == "__main__":
    FILE.write_text(example_text(), "utf-8")
