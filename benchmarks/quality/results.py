"""Write RESULTS.md anew from results/*.json and figures.toml; no figure is ever typed by hand."""

import json
import math
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import cross_domain
import finetune
import race
import steps
from scenarios import SCENARIOS, Scenario

HERE = Path(__file__).parent
Row = Mapping[str, Any]
TITLES = {
    "loo": "P1 `loo`: leave one out",
    "successive": "P2 `successive`: global time split, next event",
    "basket": "P2b `basket`: global time split, next basket",
    "cold": "P3 `cold`: items never seen in training",
    "stream": "P4 `stream`: test, then learn",
}
SECOND = {
    "loo": "hr@10",
    "successive": "hr@10",
    "basket": "recall@10",
    "cold": "hr@10",
    "stream": "recall@10",
}
BASELINES = ("popularity", "recent_popularity")
BLENDS = {
    "blend_pooled": "blend, from the serving pool of 500 alone",
    "blend_warm_only": "blend, cold items never ranked",
}
PARTS = ("cold_among_all", "cold_among_cold", "warm")
EMPTY = "–"


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "RESULTS.md"
    target.write_text(page(HERE / "results"), "utf-8")
    print(f"wrote {target.name}")


def page(folder: Path) -> str:
    """The whole document for the results in `folder`."""
    figures = tomllib.loads((HERE / "figures.toml").read_text("utf-8"))
    peers = tomllib.loads((HERE / "peers" / "peers.toml").read_text("utf-8"))
    parts = [INTRODUCTION]
    for protocol, title in TITLES.items():
        parts.append(f"## {title}\n")
        for name, scenario in SCENARIOS.items():
            if scenario.protocol == protocol:
                parts += section(name, scenario, folder, figures.get(name, {}), peers)
    parts += ["## New users, step by step\n", *_stored(folder, "steps-*.json", steps.lines)]
    parts += ["## Two domains\n", *_stored(folder, "cross-*.json", cross_domain.lines)]
    parts += ["## A fine-tuned encoder\n", *_stored(folder, "finetune-*.json", finetune.lines)]
    parts += ["## Against a trained peer\n", *_stored(folder, "race-*.json", race.lines)]
    parts += ["## The peers' settings\n", *(_setting(row) for row in peers.values()), ""]
    return "\n".join(parts)


def _stored(folder: Path, pattern: str, lines: Callable[[Row], Iterable[str]]) -> Iterable[str]:
    """The lines of every result that was stored under such a name."""
    files = sorted(folder.glob(pattern))
    if not files:
        yield "Not run yet.\n"
    for file in files:
        yield from lines(json.loads(file.read_text("utf-8")))


def section(name: str, scenario: Scenario, folder: Path, outside: Row, peers: Row) -> Iterable[str]:
    """Heading, facts and table of one scenario."""
    ours, theirs = _read(folder / f"{name}.json"), _read(folder / f"{name}.peers.json")
    yield f"### {name}\n"
    if ours is None and theirs is None:
        yield f"Not run yet: `python benchmarks/quality/run.py --only {name}`\n"
        return
    if ours and theirs and ours["data_hash"] != theirs["data_hash"]:
        raise SystemExit(f"{name}: peers ran on other rows ({theirs['data_hash'][:12]}); run again")
    yield facts(scenario, ours, "steerec")
    if scenario.peers:
        yield facts(scenario, theirs, "peers")
    for note in (ours or {}).get("notes", ()):
        yield f"- note: {note}"
    second = SECOND[scenario.protocol]
    label = {"hr@10": "HR@10", "recall@10": "recall@10"}[second]
    yield f"\n| model | NDCG@10 | 95 % | {label} | 95 % | fit, s | memory, MiB |"
    yield "|---|---|---|---|---|---|---|"
    yield from _our_rows(ours, second)
    yield from _peer_rows(theirs, peers, second)
    yield from _outside_rows(outside, ours, second)
    yield ""
    if ours and "reliability" in ours:
        yield reliability_line(ours["reliability"])
    if ours and "ablation" in ours:
        yield from ablation_lines(ours, second, label)
    if ours and "warm_loss" in ours:
        yield from cold_lines(ours, outside.get("parts", {}))
    if ours and "windows" in ours:
        yield from stream_lines(ours, outside)


def facts(scenario: Scenario, result: Row | None, who: str) -> str:
    """Where the figures of one side come from."""
    if result is None:
        return f"- {who}: not run yet"
    load = result["load_average_before"]
    start = f"{result['finished']}, load {'not noted' if load is None else load} before"
    return (
        f"- {who}: {scenario.data}, track {result['track']}, {result['requests']:,} requests, "
        f"data `{result['data_hash'][:12]}`, commit `{result['commit']}`, seed {result['seed']}, "
        f"{result['machine']}, {result['threads']} threads, {start}"
    )


def reliability_line(reliability: Row) -> str:
    """How far off the chances are that the blend and the heads give to items."""
    off = {name: row["error_nats"] for name, row in reliability.items()}
    words = [
        f"{'**blend**' if name == 'blend' else name} {math.exp(nats):.2f}"
        for name, nats in off.items()
        if nats is not None
    ]
    return (
        "Chances given to items against what came, mean factor between the two over the right "
        f"items (1 is never off): {', '.join(words)}.\n"
    )


def ablation_lines(ours: Row, second: str, label: str) -> Iterable[str]:
    """The blend without each head, the greatest loss first."""
    yield f"| the blend without | NDCG@10 | lost | 95 % | {label} | lost | 95 % |"
    yield "|---|---|---|---|---|---|---|"
    rows = ours["ablation"].items()
    for name, row in sorted(rows, key=lambda pair: -pair[1]["ndcg@10 lost"]["difference"]):
        cells = []
        for metric in ("ndcg@10", second):
            lost = row[f"{metric} lost"]
            between = f"{lost['low']:+.4f} to {lost['high']:+.4f}"
            cells.append(f"{row[metric]:.4f} | {lost['difference']:+.4f} | {between}")
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield (
        "\nThe weights of the other heads were fitted anew on the same held-out steps; heads and "
        "calibrations stay. Lost: how much higher the whole blend is on the same requests.\n"
    )


def cold_lines(ours: Row, outside: Row) -> Iterable[str]:
    """Cold and warm targets apart, and what the cold items cost the warm ones."""
    parts, loss = ours["slices"], ours["warm_loss"]
    sizes = [f"{parts[name]['n']:,}" for name in PARTS]
    yield (
        f"| NDCG@10 (HR@10) | cold among all, {sizes[0]} | 95 % | cold among cold, {sizes[1]} "
        f"| 95 % | warm, {sizes[2]} | 95 % |"
    )
    yield "|---|---|---|---|---|---|---|"
    names = sorted(parts["warm"].keys() - {"n"}, key=lambda n: -parts["warm"][n]["ndcg@10"])
    for name in names:
        label = BLENDS.get(name, "**blend**" if name == "blend" else name.replace("_", " "))
        yield f"| {label} | " + " | ".join(_part(parts[p].get(name)) for p in PARTS) + " |"
    for row in outside.get("before", ()):
        cells = (f"{row[p]:.4f} | {EMPTY}" for p in PARTS)
        yield f"| measured with other code: {row['name']} | " + " | ".join(cells) + " |"
    yield (
        f"\nWarm loss, NDCG@10 of the blend against the same blend where cold items are never "
        f"ranked: {_percent(loss['difference'])} ({_percent(loss['low'])} to "
        f"{_percent(loss['high'])})."
    )
    if "goal" in outside:
        goal = outside["goal"]
        reached = loss["difference"] <= goal["warm_loss"] and all(
            parts[p]["blend"]["ndcg@10"] >= goal[p] for p in PARTS[:2]
        )
        yield (
            f"Goals: cold among all {goal['cold_among_all']}, cold among cold "
            f"{goal['cold_among_cold']}, warm loss {_percent(goal['warm_loss'])} at most: "
            f"{'reached' if reached else 'not reached'}."
        )
    yield ""


def _part(row: Row | None) -> str:
    if row is None:
        return f"{EMPTY} | {EMPTY}"
    low, high = row["ci"]["ndcg@10"]
    return f"{row['ndcg@10']:.4f} ({row['hr@10']:.4f}) | {low:.4f}–{high:.4f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def stream_lines(ours: Row, outside: Row) -> Iterable[str]:
    """Windows, rate and cost of updates of a stream, and the blend against the best head."""
    windows, updates, results = ours["windows"], ours["updates"], ours["results"]
    heads = [n for n in results if not n.startswith("blend") and n not in BASELINES]
    best = max(heads, key=lambda n: results[n]["ndcg@10"])
    ratio = results["blend"]["ndcg@10"] / results[best]["ndcg@10"]
    rate = ours["requests"] / ours["seconds"]["evaluate"]
    yield "| window from event | events | blend NDCG@10 | blend recall@10 | best head NDCG@10 |"
    yield "|---|---|---|---|---|"
    for window in windows:
        yield (
            f"| {window['from']:,} | {window['n']:,} | {window['blend']['ndcg@10']:.4f} "
            f"| {window['blend']['recall@10']:.4f} | {window[best]['ndcg@10']:.4f} |"
        )
    goal = f" (goal {outside['goal_ratio']})" if "goal_ratio" in outside else ""
    yield (
        f"\nBlend over best head ({best}): {ratio:.3f}{goal}. All heads foretell and learn at "
        f"{rate:,.0f} events/s; one update of all heads takes {updates['median_ms']:.2f} ms in "
        f"the median (goal 1), {updates['p99_ms']:.2f} ms at p99.\n"
    )
    if refits := ours.get("refits"):
        seconds = sum(row["seconds"] for row in refits)
        yield (
            f"Everything was fitted anew {len(refits)} times on the way, on "
            f"{refits[0]['events']:,} to {refits[-1]['events']:,} events, in {seconds:,.0f} s in "
            "all; the best head, too.\n"
        )


def _our_rows(ours: Row | None, second: str) -> Iterable[str]:
    if ours is None:
        return
    results, seconds = ours["results"], ours["fit_seconds"]
    heads = [n for n in results if not n.startswith("blend") and n not in BASELINES]
    heads.sort(key=lambda n: -results[n]["ndcg@10"])
    yield _measured("**blend**", results["blend"], second, ours["seconds"]["fit"], ours)
    for name in (n for n in BLENDS if n in results):
        yield _measured(BLENDS[name], results[name], second, None, None)
    for name in heads:
        yield _measured(name, results[name], second, seconds.get(name), None)
    for name in BASELINES:
        yield _measured(name.replace("_", " "), results[name], second, None, None)


def _peer_rows(theirs: Row | None, peers: Row, second: str) -> Iterable[str]:
    for key, row in sorted(
        (theirs or {"peers": {}})["peers"].items(), key=lambda pair: -pair[1].get("ndcg@10", 0)
    ):
        label = f"peer: {peers[key]['name']}"
        if "failed" in row:
            yield f"| {label} | failed: {row['failed']} |" + f" {EMPTY} |" * 5
        else:
            label = f"{label} ({row['version']})"
            yield _measured(label, row, second, row["fit"], row)


def _outside_rows(outside: Row, ours: Row | None, second: str) -> Iterable[str]:
    for row in outside.get("published", ()):
        label = f"published: {row['name']} ({row['source']})"
        yield f"| {label} | {row['ndcg@10']:.4f} | {EMPTY} | {_number(row.get(second))} |" + (
            f" {EMPTY} |" * 3
        )
    for key, label in (("floor", "promised"), ("goal", "goal")):
        if key in outside:
            asked = outside[key]
            reached = _reached(asked, ours)
            yield f"| {label}{reached} | {_number(asked.get('ndcg@10'))} | {EMPTY} | " + (
                f"{_number(asked.get(second))} |" + f" {EMPTY} |" * 3
            )


def _reached(asked: Row, ours: Row | None) -> str:
    if ours is None:
        return ""
    blend = ours["results"]["blend"]
    return ": reached" if all(blend[k] >= v for k, v in asked.items()) else ": not reached"


def _measured(label: str, row: Row, second: str, fit_s: float | None, holder: Row | None) -> str:
    low_high = [f"{low:.4f}–{high:.4f}" for low, high in (row["ci"]["ndcg@10"], row["ci"][second])]
    memory = EMPTY if holder is None else f"{holder['peak_rss_mib']:,.0f}"
    seconds = EMPTY if fit_s is None else f"{fit_s:,.1f}"
    return (
        f"| {label} | {row['ndcg@10']:.4f} | {low_high[0]} | {row[second]:.4f} | {low_high[1]} "
        f"| {seconds} | {memory} |"
    )


def _setting(row: Row) -> str:
    return f"- {row['name']}: {row['settings']}."


def _number(value: float | None) -> str:
    return EMPTY if value is None else f"{value:.4f}"


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text("utf-8")) if path.exists() else None


INTRODUCTION = """# How good the recommendations are

Written by `benchmarks/quality/results.py` from `results/*.json` and `figures.toml`; do not edit.
What the protocols measure is in `README.md` beside this page. All rankings are over the whole
catalogue; intervals are 95 % from 1,000 bootstrap draws of users. Seconds and memory of the blend
are those of `steerec evaluate` (all heads, calibration and blend; each head is fitted twice), those
of a head are its part of the fit, and those of a peer are of its own process, imports not counted.
Published figures were measured by their authors, not here.
"""


if __name__ == "__main__":
    main()
