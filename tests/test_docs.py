"""What is written stays true: commands, code, links, settings and tables of the documentation."""

import importlib.util
import json
import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from steerec import __version__
from steerec.cli import app
from steerec.config import SECTIONS, head_config_class, parse_settings
from steerec.data.mapping import map_columns
from steerec.data.rules import CleanConfig
from steerec.data.sample import sample_shop, write_csv
from steerec.encoders import ENCODERS
from steerec.evaluation.protocols import TRACKS
from steerec.evaluation.wording import METRICS
from steerec.heads import HEADS, QUICK
from test_layers import ROWS

ROOT = Path(__file__).parent.parent
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
MAKEFILE, CI = ROOT / "Makefile", ROOT / ".ci" / "run"
# Our own text: whatever is checked in by hand.
OURS = ("src", "tests", "docs", "examples", "benchmarks", ".ci")
TEXTS = {".py", ".md", ".toml", ".txt", ".ipynb", ".svg", ".json", ".sh", ""}
QUIET = '[encoder]\nencoder = "hashing"\n'  # commands run as written, but without the model


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str

    def commands(self) -> Iterator[list[str]]:
        """The words of each line after `$ `; a line ending in a backslash goes on."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield shlex.split(line[2:], comments=True)


def blocks(page, language):
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [Block(page, name, text) for name, text in found if name == language]


def between(page, name):
    """The lines between `<!-- name: begin … -->` and `<!-- name: end -->`."""
    pattern = rf"<!-- {name}: begin.*?-->\n(.*?)<!-- {name}: end -->"
    found = re.search(pattern, page.read_text("utf-8"), re.DOTALL)
    assert found, f"{page.name} has no block {name!r}"
    return found[1].strip().splitlines()


def rows_of(lines):
    """The cells of a Markdown table's body."""
    return [[c.strip() for c in line.strip("| ").split("|")] for line in lines[2:]]


def ids(values):
    return [v.relative_to(ROOT).as_posix() for v in values]


# Links and form


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_every_relative_link_leads_to_a_file(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    gone = [
        link
        for link in links
        if not re.match(r"https?://|#", link) and not (page.parent / link.split("#")[0]).exists()
    ]
    assert not gone, f"{page.name} links to {gone}"


@pytest.mark.parametrize("page", [README, CHINESE], ids=ids([README, CHINESE]))
def test_a_readme_is_under_150_lines(page):
    assert len(page.read_text("utf-8").splitlines()) < 150


def test_both_readmes_count_the_models_of_the_demo():
    numbers = {9: ("nine", "九"), 10: ("ten", "十"), 11: ("eleven", "十一"), 12: ("twelve", "十二")}
    english, chinese = numbers[len(set(QUICK) - {"social"})]  # the sample shop tells of no friends
    assert f"fits {english} models" in README.read_text("utf-8")
    assert f"训练{chinese}个模型" in CHINESE.read_text("utf-8")


def test_both_readmes_show_the_same_commands():
    shown = [[list(b.commands()) for b in blocks(page, "console")] for page in (README, CHINESE)]
    assert shown[0] == shown[1] != []


@pytest.mark.parametrize("page", [README, CHINESE], ids=ids([README, CHINESE]))
def test_the_map_of_the_house_is_complete(page):
    (tree,) = [b.text for b in blocks(page, "text") if b.text.startswith("src/steerec/")]
    first, *lines = tree.splitlines()
    inside = {line.split()[0].rstrip("/") for line in lines if line.startswith("  ")}
    beside = [word for line in lines if not line.startswith(" ") for word in line.split()]
    quiet = {"__init__.py", "version.py", "py.typed", "__pycache__"}
    assert inside == {p.name for p in (ROOT / first).iterdir()} - quiet
    assert [w for w in beside if w.endswith((".toml", "/")) and not (ROOT / w).exists()] == []


def our_texts():
    loose = [p for p in ROOT.iterdir() if p.is_file() and p.name != ".git"]  # a file in a worktree
    nested = [p for name in OURS for p in (ROOT / name).rglob("*")]
    for path in [*loose, *nested]:
        hidden = {"__pycache__", "cache", ".venv"} & set(path.relative_to(ROOT).parts)
        if path.is_file() and path.suffix in TEXTS and not hidden:
            yield path


def test_no_text_of_ours_names_a_machine_or_a_package_registry():
    # Written so that this file does not find itself.
    wrong = re.compile(
        "/(?:home|Users|" + "root|wo" + r"rk)/\w|files\.python" + r"hosted|py" + r"pi\.org"
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in our_texts()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if (match := wrong.search(line))
    ]
    assert not found, "\n".join(found)


# Commands


def all_commands():
    return [
        (block.page, words)
        for page in PAGES
        for block in blocks(page, "console")
        for words in block.commands()
    ]


def steerec_commands():
    """Commands in blocks, and those in running text that name an option."""
    found = [(page, words) for page, words in all_commands() if words[0] == "steerec"]
    for page in PAGES:
        for block in blocks(page, "bash"):
            lines = block.text.replace("\\\n", " ").splitlines()
            shown = (shlex.split(line, comments=True) for line in lines)
            found += [(page, words) for words in shown if words[:1] == ["steerec"]]
    for page in PAGES:
        inline = re.findall(r"`(steerec [a-z][^`]*)`", page.read_text("utf-8"))
        found += [(page, shlex.split(text)) for text in inline]
    return found


def test_every_steerec_command_in_the_docs_has_known_verbs_and_options():
    verbs = get_command(app).commands
    wrong = []
    for page, (_, verb, *words) in steerec_commands():
        if verb not in verbs:
            wrong.append(f"{page.name}: steerec {verb}")
            continue
        command = verbs[verb]
        if hasattr(command, "commands"):  # a group of verbs
            verb, command = f"{verb} {words[0]}", command.commands.get(words[0])
        if command is None:
            wrong.append(f"{page.name}: steerec {verb}")
            continue
        known = {"--help"} | {name for p in command.params for name in p.opts}
        known |= {name for p in command.params for name in p.secondary_opts}
        given = {w.partition("=")[0] for w in words if re.match(r"--?[a-z]", w)}
        wrong += [f"{page.name}: steerec {verb} {name}" for name in sorted(given - known)]
    assert not wrong, "\n".join(wrong)
    assert {words[1] for _, words in steerec_commands()} >= set(verbs), "a verb is shown nowhere"


def test_every_make_target_in_the_docs_exists():
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE.read_text("utf-8"), re.MULTILINE))
    named = {words[1] for _, words in all_commands() if words[0] == "make"}
    for page in PAGES:
        named |= set(re.findall(r"`make ([a-z-]+)`", page.read_text("utf-8")))
    assert named <= targets
    assert {"demo", "test"} <= named


def test_every_pip_command_uses_the_pins():
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").split() if line
    )
    installs = [words for _, words in all_commands() if "install" in words]
    assert installs
    for words in installs:
        torch_alone = words[-1] == f"torch=={pins['torch']}"
        assert torch_alone or words[words.index("-c") + 1] == "constraints.txt", words


def test_ci_runs_the_commands_that_the_readme_gives():
    called = CI.read_text("utf-8")
    named = [words for page, words in all_commands() if page == README and words[0] == "make"]
    assert ["make", "test"] in named
    for target in ("make test", "make check"):
        assert re.search(rf"^step \w+ {target}$", called, re.MULTILINE), f".ci/run lacks {target}"
    assert "set -euo pipefail" in called
    assert CI.stat().st_mode & 0o111, ".ci/run is not executable"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of its own with the small shop that the pages speak of."""
    shop = sample_shop(n_items=200, n_users=150, n_events=4_000)
    write_csv(shop, tmp_path / "shop")
    (tmp_path / "steerec.toml").write_text(QUIET)
    monkeypatch.setenv("STEEREC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("STEEREC_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words):
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}\n{result.exception!r}"
    return result.output


def test_the_quickstart_commands_run_as_written(here):
    page = ROOT / "docs" / "quickstart.md"
    for block in blocks(page, "console"):
        for words in block.commands():
            if words[0] == "steerec":
                run(words)
    for made in ("health.html", "dataset/dataset.json", "dataset/quarantine.jsonl", "result.html"):
        assert (here / made).is_file(), made
    result = json.loads((here / "result.json").read_text())
    heads = set(QUICK) - {"social"}  # the sample shop tells of no friends
    assert set(result["results"]) >= {"blend", "popularity", "recent_popularity", *heads}


def test_the_sixty_second_start_runs_as_written(here):
    for name in ("events.csv", "items.csv"):
        (here / "shop" / name).rename(here / name)
    (here / "shop" / "users.csv").unlink()
    (here / "shop").rmdir()
    outputs = [run(w) for b in blocks(README, "console") for w in b.commands() if w[0] == "steerec"]
    assert len(outputs) == 3
    assert (here / "model" / "manifest.json").is_file()


def test_the_columns_of_the_readme_are_found_without_help():
    (table,) = blocks(README, "text")[0].text.splitlines()[:1]
    events, items = (part.split(",") for part in table.split())
    assert set(map_columns("events", events, {}).columns) == {
        "user_id",
        "item_id",
        "event",
        "timestamp",
    }
    assert set(map_columns("items", items, {}).columns) == {"item_id", "title", "categories"}


# Code


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_on_a_page_runs_from_top_to_bottom(page, here):
    code = "\n".join(block.text for block in blocks(page, "python"))
    exec(compile(code, page.name, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("example", EXAMPLES, ids=ids(EXAMPLES))
def test_example_runs(example, here, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(example.parent))
    runpy.run_path(str(example), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) > 2


def test_every_example_is_listed():
    listed = set(re.findall(r"\]\((\w+\.py)\)", (ROOT / "examples/README.md").read_text("utf-8")))
    assert listed == {example.name for example in EXAMPLES}


# Settings


def test_every_setting_that_the_settings_page_names_exists():
    text = (ROOT / "docs" / "settings.md").read_text("utf-8")
    named = [n.split(".") for n in re.findall(r"`([a-z]+(?:\.[a-z_]+)+)`", text)]
    named = [n for n in named if n[0] in {*SECTIONS, "heads"}]
    assert len(named) > 15
    for section, *keys in named:
        kind = head_config_class(keys[0]) if section == "heads" else SECTIONS[section]
        if section != "heads" and len(keys) > 1:  # a group of settings inside the section
            kind = type(getattr(kind(), keys[0]))
        known = (
            {f.name for f in fields(kind)}
            if hasattr(kind, "__dataclass_fields__")
            else set(kind.model_fields)
        )
        assert keys[-1] in known, f"{section}.{'.'.join(keys)}"
    assert set(re.findall(r"^\| `\[(\w+)[.\]]", text, re.MULTILINE)) == {
        *SECTIONS,
        "heads",
        "scenarios",
    }


def test_settings_shown_as_toml_are_accepted():
    import tomllib

    shown = [block for page in PAGES for block in blocks(page, "toml")]
    assert shown
    for block in shown:
        parse_settings(tomllib.loads(block.text))


# Tables that repeat what the code says


def test_the_table_of_cleaning_rules_is_that_of_the_code():
    rows = rows_of(between(ROOT / "docs" / "data-formats.md", "rules"))
    shown = {name.strip("`"): default for name, default, _ in rows}
    switch = {True: "on", False: "off"}
    coded = {
        f.name: switch.get(f.default, str(f.default))
        if isinstance(f.default, bool)
        else str(f.default)
        for f in fields(CleanConfig)
    }
    assert shown == coded


def test_the_table_of_synonyms_is_that_of_the_code():
    from steerec.data.mapping import _synonyms  # the one table there is

    rows = rows_of(between(ROOT / "docs" / "data-formats.md", "synonyms"))
    shown = {name.strip("`"): frozenset(words.split(", ")) for name, words in rows}
    assert shown == {name: words for name, words in _synonyms().items() if words}


def test_the_rows_of_the_architecture_page_are_those_that_are_enforced():
    lines = between(ROOT / "docs" / "architecture.md", "rows")[1:-1]
    assert [tuple(line.split()[1:]) for line in lines] == list(ROWS)


def test_each_head_is_explained():
    text = (ROOT / "docs" / "how-it-works.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(HEADS)


def test_each_protocol_track_and_metric_is_explained():
    text = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
    for protocol, tracks in TRACKS.items():
        (row,) = re.findall(rf"^\| `{protocol}` \|.*$", text, re.MULTILINE)
        assert [t for t in tracks if f"`{t}`" not in row] == []
    shown = re.findall(r"^\| `([a-z_]+)@10` \|", text, re.MULTILINE)
    assert set(METRICS) <= set(shown)


def test_the_changelog_names_this_version_and_each_verb_and_encoder():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## {__version__}" in text
    assert [verb for verb in get_command(app).commands if f"`{verb}`" not in text] == []
    assert set(ENCODERS) == {"text", "onnx", "remote", "hashing"}, "tell it in the changelog"


# The measured claims


def claims_module():
    path = ROOT / "benchmarks" / "quality" / "claims.py"
    spec = importlib.util.spec_from_file_location("claims", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result_of(data, protocol, track, **ndcg):
    rows = {
        name: {"ndcg@10": value, "ci": {"ndcg@10": [value - 0.01, value + 0.01]}}
        for name, value in ndcg.items()
    }
    return {
        "protocol": protocol,
        "track": track,
        "data": data,
        "commit": "abc123",
        "seed": 0,
        "machine": "two cores",
        "seconds": {"fit": 41.4},
        "peak_rss_mib": 1234.5,
        "results": rows,
    }


def test_claims_are_written_between_their_comments(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    module = claims_module()
    films = result_of("ml-1m", "loo", "time-blind", blend=0.2, ease=0.1, als=0.15, popularity=0.05)
    (tmp_path / "films.json").write_text(json.dumps(films))
    (tmp_path / "other.json").write_text(json.dumps({"benchmark": "other"}))
    for words, page in ((module.ENGLISH, README), (module.CHINESE, CHINESE)):
        block = module.claims(module.load(tmp_path), words)
        quality, _, _, repeats, speed, _ = block.splitlines()
        assert "**0.200** [0.190, 0.210]" in quality
        assert "**0.050** [0.040, 0.060]" in quality
        assert "`als`" in quality
        assert "0.186" in quality  # of figures.toml
        assert "abc123" in quality
        assert repeats == words.missing.format(what="online-retail basket all")
        assert "41 " in speed
        assert "1,234" in speed
        text = page.read_text("utf-8")
        written = module.rewrite(text, block)
        assert module.rewrite(written, block) == written
        assert block in written
        lines = written.splitlines()
        assert [line for line in text.splitlines() if "claims:" in line] == [
            line for line in lines if "claims:" in line
        ]
    with pytest.raises(ValueError, match="has no <!-- claims: begin"):
        module.rewrite("# nothing", "x")
