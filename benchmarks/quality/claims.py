"""Write the measured claims of the two READMEs from benchmarks/quality/results/*.json.

Run after run.py: python benchmarks/quality/claims.py [RESULTS_FOLDER]
"""

import json
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BEGIN, END = "<!-- claims: begin", "<!-- claims: end -->"
RESULTS = "benchmarks/quality/RESULTS.md"
PUBLISHED = tomllib.loads((HERE / "figures.toml").read_text("utf-8"))
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Words:
    """One language; each part is filled with `str.format`."""

    readme: str
    quality: str
    published: str
    live: str
    speed: str
    quick: str
    repeats: str
    missing: str


ENGLISH = Words(
    readme="README.md",
    quality="{data}, each user's last event hidden, no times: NDCG@10 {blend} against {baseline} "
    "for popularity, {best_name} being the best single head with {best}",
    published="; the best figure that we know to be published is {ndcg:.3f} ({name})",
    live="{data}, each event after one moment foretold, then learnt: NDCG@10 {blend} against "
    "{baseline} for popularity, {best_name} being the best single head with {best}",
    repeats="{data}, next basket, repeats counted: NDCG@10 {blend} against {baseline} for recent "
    "popularity",
    speed="{data}: all heads, calibration and blend fitted in {fit_s:,.0f} s, {rss:,.0f} MiB at "
    "the most ({machine}); NDCG@10 {blend}",
    quick=" without networks (`--heads quick`)",
    missing="<!-- figures: no result yet for {what} -->",
)
CHINESE = Words(
    readme="README.zh-CN.md",
    quality="{data}，隐去每位用户的最后一个事件，不使用时间：NDCG@10 为 {blend}，"
    "热门榜为 {baseline}，最好的单个模型（{best_name}）为 {best}",
    published="；已知的最好公开结果为 {ndcg:.3f}（{name}）",
    live="{data}，从某一时刻起逐个预测每个事件，随后学习：NDCG@10 为 {blend}，"
    "热门榜为 {baseline}，最好的单个模型（{best_name}）为 {best}",
    repeats="{data}，预测下一个购物篮，计入复购：NDCG@10 为 {blend}，近期热门榜为 {baseline}",
    speed="{data}：全部模型、校准与融合在 {fit_s:,.0f} 秒内训练完成，"
    "内存峰值 {rss:,.0f} MiB（{machine}），NDCG@10 为 {blend}",
    quick="（不含神经网络：`--heads quick`）",
    missing="<!-- figures: 尚无 {what} 的结果 -->",
)


def load(folder: Path) -> list[Result]:
    """The evaluation results below a folder; other JSON files are passed over."""
    found = (json.loads(path.read_text("utf-8")) for path in sorted(folder.rglob("*.json")))
    return [
        r for r in found if isinstance(r, dict) and {"protocol", "track", "results"} <= r.keys()
    ]


def claims(results: Iterable[Result], words: Words) -> str:
    """The block between the two comments: one line a claim, each linked to its table."""
    known = list(results)
    films = _find(known, "ml-1m", "loo", "time-blind")
    beauty = _find(known, "amazon-beauty", "loo", "time-blind")
    live = _find(known, "ml-1m", "successive", "live")
    baskets = _find(known, "online-retail", "basket", "all")
    lines = [
        _line(films, words, "ml-1m loo time-blind", _quality),
        _line(beauty, words, "amazon-beauty loo time-blind", _quality),
        _line(live, words, "ml-1m successive live", _live),
        _line(baskets, words, "online-retail basket all", _repeats),
        _line(films, words, "ml-1m fit", _speed),
        _line(_quickest(known, "ml-1m"), words, "ml-1m quick fit", _speed),
    ]
    return "\n".join(lines)


def rewrite(text: str, block: str) -> str:
    """The README with another block of claims.

    Raises:
        ValueError: if the two comments are not there.
    """
    head, begin, rest = text.partition(BEGIN)
    marker, _, rest = rest.partition("\n")
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README has no {BEGIN} … {END}")
    return f"{head}{begin}{marker}\n{block}\n{end}{tail}"


def _find(results: list[Result], data: str, protocol: str, track: str) -> Result | None:
    """The run whose blend is best; its table names its settings."""
    fits = [
        r
        for r in results
        if Path(str(r.get("data", ""))).name == data
        and (r["protocol"], r["track"]) == (protocol, track)
        and "blend" in r["results"]
    ]
    return max(fits, key=lambda r: float(r["results"]["blend"]["ndcg@10"]), default=None)


def _quickest(results: list[Result], data: str) -> Result | None:
    """Of this set by protocol P1, time-blind, the run that was fitted in the least time."""
    fits = [
        r
        for r in results
        if Path(str(r["data"])).name == data
        and (r["protocol"], r["track"]) == ("loo", "time-blind")
    ]
    return min(fits, key=lambda r: float(r["seconds"]["fit"]), default=None)


def _line(
    result: Result | None, words: Words, what: str, fill: Callable[[Result, Words], str]
) -> str:
    if result is None:
        return words.missing.format(what=what)
    commit, seed = result["commit"], result["seed"]
    return f"- {fill(result, words)} ([{commit}, seed {seed}]({RESULTS}))."


def _quality(result: Result, words: Words) -> str:
    known = _published(Path(str(result["data"])).name)
    best = max(known, key=lambda one: float(one["ndcg@10"]), default=None)
    told = "" if best is None else words.published.format(ndcg=best["ndcg@10"], name=best["name"])
    return words.quality.format(**_blend(result)) + told


def _published(data: str) -> list[Mapping[str, Any]]:
    """What others published of this set by protocol P1."""
    return list(PUBLISHED.get(f"P1-{data}", {}).get("published", []))


def _live(result: Result, words: Words) -> str:
    return words.live.format(**_blend(result))


def _blend(result: Result) -> dict[str, str]:
    """The blend against popularity and the best of its heads."""
    models = result["results"]
    others = {"blend", "blend_pooled", "popularity", "recent_popularity"}
    heads = [name for name in models if name not in others]
    best = max(heads, key=lambda name: float(models[name]["ndcg@10"]))
    return {
        "data": Path(str(result["data"])).name,
        "blend": _figure(models["blend"]),
        "baseline": _figure(models["popularity"]),
        "best_name": f"`{best}`",
        "best": _figure(models[best]),
    }


def _repeats(result: Result, words: Words) -> str:
    models = result["results"]
    return words.repeats.format(
        data=Path(str(result["data"])).name,
        blend=_figure(models["blend"]),
        baseline=_figure(models["recent_popularity"]),
    )


def _speed(result: Result, words: Words) -> str:
    told = words.speed.format(
        **_blend(result),
        fit_s=result["seconds"]["fit"],
        rss=result["peak_rss_mib"],
        machine=result["machine"],
    )
    networks = [name for name in ("sequence", "gru", "two_tower") if name in result["results"]]
    return told if networks else told + words.quick


def _figure(row: Mapping[str, Any]) -> str:
    low, high = row["ci"]["ndcg@10"]
    return f"**{row['ndcg@10']:.3f}** [{low:.3f}, {high:.3f}]"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results"
    results = load(folder)
    for words in (ENGLISH, CHINESE):
        readme = ROOT / words.readme
        readme.write_text(rewrite(readme.read_text("utf-8"), claims(results, words)), "utf-8")
        print(f"{words.readme}: claims of {len(results)} results")


if __name__ == "__main__":
    main()
