"""RESULTS.md from what lies in results/: `python benchmarks/tuning/page.py`."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
WORLDS = ("shop", "films", "jester")
SETS = ("ml-100k", "ml-1m", "online-retail")
GOALS = {
    "over_popularity": "clicks over popularity",
    "over_frozen_low": "lower 95 % bound over frozen above 0",
    "recovered_by": "≥ .80 of the gap after the drift closed within 5,000 slates (the last 2,000)",
    "recovery": "≥ .80 of it from there to the end, which the protocol does not ask for",
    "worst_window_under_frozen": "no window of 2,000 slates more than 2 % under frozen",
    "over_vw": "ahead of the best Vowpal Wabbit",
}
SAID = {True: "met", False: "**not met**", None: "cannot be told"}
HEAD = """\
# Tuning, measured

Made by `python benchmarks/tuning/page.py` from the files in `results/`. What they mean:
[simulation](../../docs/simulation.md), [tuning](../../docs/tuning.md),
[estimates](../../docs/tuning-offline.md) (P6 is there)."""


def main() -> None:
    parts = [HEAD]
    for world in WORLDS:
        parts += _loop(_read(f"loop-{world}"))
        parts += _grid(_read(f"vw-{world}"))
    parts += _learners(_read("T1"))
    parts += _soak(_read("T2"), _read("T2-people"))
    parts += _attacks(_read("T3"))
    parts += _streams([_read(f"P4-{name}") for name in SETS])
    (HERE / "RESULTS.md").write_text("\n\n".join(parts) + "\n", "utf-8")


def _read(name: str) -> dict[str, Any] | None:
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text("utf-8")) if file.is_file() else None


def _table(head: str, rows: list[list[str]]) -> str:
    columns = head.split("|")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines)


def _loop(told: dict[str, Any] | None) -> list[str]:
    if told is None:
        return []
    world, gap = told["world"], told["goals"].get("gap_per_1000_after_drift")
    opened = "Gap from frozen to the best blend after the drift: {} clicks per 1,000 slates."
    facts = [
        *([] if gap is None else [opened.format(_mean(gap))]),
        f"{told['slates']:,} slates, temperature {told['loop']['temperature']}.",
        f"Seeds of ours: {', '.join(map(str, told['seeds']['ours']))}.",
        f"Events {told['data_hash'][:12]}, commit {', '.join(told['commits'])},",
        f"{'; '.join(told['machine'])}, load {told['load'][0]:g} to {told['load'][1]:g}.",
        "Processor's seconds a run: "
        + ", ".join(f"{name} {s:g}" for name, s in told["cpu_seconds"].items())
        + ".",
        f"Intervals: {told['interval']}.",
    ]
    return [
        f"## P5: the closed loop, {world}",
        _policies(told),
        *([_goals(told["goals"])] if told["goals"] else []),
        "\n".join(facts),
        f"![{world}](results/loop-{world}.png)",
    ]


def _policies(told: dict[str, Any]) -> str:
    head = "policy|seeds|clicks per 1,000|over popularity|over frozen|regret|recovery|return rate"
    rows = [
        [
            name,
            str(len(told["seeds"][name])),
            _mean(row["clicks_per_1000"]),
            _lift(row["lift_over_popularity"]),
            _lift(row["lift_over_frozen"]),
            _number(row["regret"], ",.0f"),
            _number(row["recovery"], ".2f"),
            f"{row['return_rate']:.3f}",
        ]
        for name, row in told["policies"].items()
    ]
    return _table(head, rows)


def _goals(goals: dict[str, Any]) -> str:
    rows = []
    for key, words in GOALS.items():
        if key in goals:
            one = goals[key]
            figure = _number(
                one.get("figure", one.get("mean")), ".2f" if key.startswith("recover") else "+.1%"
            )
            goal = f" ≥ {one['goal']:+.0%}" if "goal" in one else ""
            rows.append([words + goal, figure, SAID[one["holds"]]])
    return _table("goal|figure|", rows)


def _grid(told: dict[str, Any] | None) -> list[str]:
    if told is None:
        return []
    rows = [
        [f"`{row['words']}`", _mean(row["clicks_per_1000"]), _lift(row["lift_over_frozen"])]
        for row in told["grid"]
    ]
    return [
        _table("Vowpal Wabbit 9.11|clicks per 1,000|over frozen", rows),
        f"{told['slates']:,} slates, seeds {told['seeds']}, commit {told['commit']}.",
    ]


def _learners(told: dict[str, Any] | None) -> list[str]:
    if told is None:
        return []
    rows = [
        [name, _mean(row["before"]), _mean(row["after"]), f"{row['cpu_s']:g}"]
        for name, row in told["lost_per_1000"].items()
    ]
    return [
        "## T1: learners side by side",
        "Clicks lost per 1,000 slates to the truth's own blend with the same sampler, in a\n"
        "generated world that turns at half time.",
        _table("learner|before the turn|after it|processor, s", rows),
        f"{told['seeds']} seeds of {told['slates']:,} slates; the truth's own blend gets\n"
        f"{_mean(told['oracle_clicks_per_1000'])}; commit {told['commit']}; {told['machine']}.",
    ]


def _soak(told: dict[str, Any] | None, many: dict[str, Any] | None) -> list[str]:
    if told is None:
        return []
    kinds = ("event_ms", "slate_ms", "epoch_ms")
    rows = [
        [
            f"{mark['events']:,}",
            f"{mark['people']:,}",
            f"{mark['rss_mib']:,.0f}",
            f"{mark['ms_per_event_all_in']:.3f}",
            *(f"{mark[kind]['p50']:.3f} / {mark[kind]['p99']:.3f}" for kind in kinds),
        ]
        for mark in told["marks"]
    ]
    first, last = told["marks"][0], told["marks"][-1]
    head = "events|people|resident, MiB|all in, ms an event|" + "|".join(
        f"{kind} p50 / p99" for kind in ("event", "slate", "epoch")
    )
    return [
        f"## T2: {last['events']:,} events through the tuner",
        _table(head, rows),
        f"Milliseconds of the processor; {told['numbers_learnt']} numbers learnt, twenty slates\n"
        f"an epoch; {told['cpu_s']:,.0f} s in all; seed {told['seed']}; commit {told['commit']};\n"
        f"{told['machine']}, load {first['load']:g} to {last['load']:g}.",
        *_people(many),
    ]


def _attacks(told: dict[str, Any] | None) -> list[str]:
    if told is None:
        return []
    rows = [
        [
            row["attack"],
            f"{row['honest']:,}",
            f"{row['attackers']:,}",
            f"{row['nats_to_promoted']:.4f}",
            f"{row['nats_to_honest_alone']:.4f}",
            f"{row['clicks']:.4f}",
        ]
        for row in told["attacks"]
    ]
    first = told["attacks"][0]
    head = "attack|honest events|attackers'|nats to the promoted θ|to θ of the honest|clicks"
    return [
        "## T3: attackers through the way of a service's log",
        _table(head, rows),
        "Defaults of tuning but where it says otherwise; the bound is .5 nats to the promoted θ,\n"
        "a draw at a temperature of 1 nat. Clicks: of the honest, at a first place so drawn;\n"
        f"under the promoted θ {first['clicks_promoted']:.4f}. {told['slates']:,} honest slates, "
        f"seed {first['seed']}, commit {told['commit']}; {told['machine']}.",
    ]


def _streams(all_told: list[dict[str, Any] | None]) -> list[str]:
    parts = []
    for told in all_told:
        if told is None:
            continue
        rows = []
        for name, row in told["results"].items():
            mean, low, high = row["ndcg@10"]
            form = "+.4f" if " - " in name else ".4f"
            bounds = f"{low:{form}} to {high:{form}}"
            rows.append([name, f"{mean:{form}}", bounds, f"{row['recall@10'][0]:{form}}"])
        parts += [
            f"## P4: test, then learn, {told['set']}, with the tuner on",
            _table("model|NDCG@10|95 %|recall@10", rows),
            f"{told['requests']:,} events; tuned over the best head alone ({told['best_head']}) "
            f"{told['tuned_over_best']:.3f}, the blend as fitted {told['blend_over_best']:.3f} "
            f"(goal 1.1).\nAn update of the tuner: {told['update_ms'][0]:.2f} ms of the processor "
            f"at the median, {told['update_ms'][1]:.2f} at the 99th percentile;\n"
            f"{told['epochs']:,} epochs. Events {told['data_hash'][:12]}, seed {told['seed']}, "
            f"commit {told['commit']}; {told['machine']}; {told['cpu_s']:,.0f} s.",
        ]
    return parts


def _people(told: dict[str, Any] | None) -> list[str]:
    """The soak with so many people that new ones come to its end."""
    if told is None:
        return []
    first, last = told["marks"][0], told["marks"][-1]
    return [
        f"The same with {told['people']:,} people, of whom new ones come to the end: "
        f"{last['events']:,} events,\n{first['rss_mib']:,.0f} MiB at {first['events']:,} and "
        f"{last['rss_mib']:,.0f} at the end; {told['cpu_s']:,.0f} s, commit {told['commit']}."
    ]


def _mean(row: dict[str, Any]) -> str:
    mean = f"{row['mean']:,.0f}"
    ci = row["ci"]
    alone = ci is None or ci[0] == ci[1]  # one seed
    return mean if alone else f"{mean} [{ci[0]:,.0f}, {ci[1]:,.0f}]"


def _lift(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    mean = f"{row['mean']:+.1%}"
    return mean if row["ci"] is None else f"{mean} [{row['ci'][0]:+.1%}, {row['ci'][1]:+.1%}]"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


if __name__ == "__main__":
    main()
