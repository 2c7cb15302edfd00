"""The verbs that learn: train and evaluate."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerec.cli import options, show
from steerec.cli.intake import print_intake, take_in_showing
from steerec.data.counted import counted

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from steerec.config import Settings
    from steerec.data.tables import Tables
    from steerec.engine.lessons import Aids
    from steerec.engine.model import FitConfig, Model
    from steerec.engine.texts import ItemVectors
    from steerec.evaluation.protocols import Task


class Protocol(StrEnum):
    """How it is measured."""

    LOO = "loo"
    SUCCESSIVE = "successive"
    BASKET = "basket"
    STREAM = "stream"
    COLD = "cold"


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command(
        epilog="Examples:\n\n"
        "steerec train --data dataset/ --out snapshot/\n\n"
        "steerec train --data ml-1m --heads ease,transitions,trending --out snapshot/\n\n"
        "steerec train --data dataset/ --from snapshot/ --out snapshot/"
    )(options.spread(train))
    app.command(
        epilog="Examples:\n\n"
        "steerec evaluate --data ml-1m --protocol loo\n\n"
        "steerec evaluate --data online-retail --protocol basket --track new "
        "--json result.json --report report.html\n\n"
        "steerec evaluate --data shop/ --protocol successive --heads ease,trending"
    )(options.spread(evaluate))


def train(
    data: options.Data,
    files: options.Files,
    learning: options.Learning,
    training: options.Training,
    out: Annotated[Path, typer.Option("--out", help="Folder of the snapshot.")] = Path("snapshot"),
    from_: options.Earlier = None,
    config: options.Config = None,
    *,
    drop_idle: options.DropIdle = False,
    json: options.AsJson = False,
) -> None:
    """Read, clean, encode, fit all heads and their blend, and write a snapshot.

    The same command goes on where a killed one stopped.
    """
    import numpy as np

    from steerec.engine.texts import with_vectors

    options.check_places(out)
    settings = options.settings_of(config, encoder=learning.encoder, threads=learning.threads)
    fit_config = _trained_as_told(settings.fit_config(options.names(learning.heads)), training)
    fit_config = replace(fit_config, drop_idle=fit_config.drop_idle or drop_idle)
    aids = _aids(from_, fit_config, out)
    source = options.source_of(settings, data, files)
    came = take_in_showing(source, settings.clean, now=time.time())
    if not json:
        print_intake(came)
    vectors = encode_showing(came.data.items, settings)
    rng = np.random.default_rng(learning.seed)
    model = fit_showing(with_vectors(came.data, vectors), fit_config, rng, aids=aids)
    _save(model, out, aids)
    if json:
        typer.echo(show.as_json(_trained(model, vectors, out)))
        return
    print_model(model, fit_config)
    show.out().print(f"Snapshot: {out}/  (next: steerec recommend --snapshot {out} --user ID)")


def evaluate(
    context: typer.Context,
    data: options.Data,
    files: options.Files,
    learning: options.Learning,
    training: options.Training,
    protocol: Annotated[Protocol, typer.Option(help="How to measure; see docs/evaluation.md.")],
    track: Annotated[
        str | None,
        typer.Option(
            help="loo: time-blind, time-aware; successive: frozen, live; basket: all, new; "
            "stream: live; cold: as loo. The first is the default."
        ),
    ] = None,
    config: options.Config = None,
    json: Annotated[Path | None, typer.Option(help="Write the result to this file.")] = None,
    report: options.Report = None,
    *,
    clean: Annotated[
        bool, typer.Option("--clean", help="Clean first; protocols of the field do not.")
    ] = False,
    ablation: Annotated[
        bool,
        typer.Option("--ablation", help="Also the blend without each head, weights fitted anew."),
    ] = False,
) -> None:
    """Measure the blend, every head and popularity on held-out events, with intervals."""
    options.check_places(json, report)
    settings = options.settings_of(config, encoder=learning.encoder, threads=learning.threads)
    check_track(protocol, track)
    fit_config = _trained_as_told(settings.fit_config(options.names(learning.heads)), training)
    source = options.source_of(settings, data, files)
    tables = _tables(source, settings, clean=clean)
    # The published counts of a known set hold for its rows as they are.
    task = _prepared(tables, protocol, track, "" if clean else data)
    measured = measure(task, settings, fit_config, seed=learning.seed, ablation=ablation)
    result = {"data": data, "cleaned": clean, **measured}
    print_result(result)
    write_result(result, json, report, command=show.command_line(context))


def check_track(protocol: str, track: str | None) -> None:
    """Refuse a track the protocol does not have, as a mistake in the command."""
    from steerec.evaluation.protocols import TRACKS

    if track is not None and track not in TRACKS[protocol]:
        known = ", ".join(TRACKS[protocol])
        raise typer.BadParameter(f"{protocol} has no track {track!r}: expected one of {known}")


def encode_showing(items: "pl.DataFrame", settings: "Settings") -> "ItemVectors":
    """Encode the catalogue with a bar.

    Raises:
        EncoderError: if the model cannot be found; names the way without one.
    """
    from steerec.engine.texts import encode_items
    from steerec.errors import EncoderError

    try:
        with show.progress() as step:
            step("encode texts", 0, None)
            return encode_items(
                items,
                settings.encoder,
                template=settings.data.template,
                cache_dir=settings.cache_dir,
                progress=lambda done, total: step("encode texts", done, total),
            )
    except EncoderError as e:
        if settings.encoder.encoder not in ("text", "onnx"):
            raise
        raise EncoderError(f"{e}; or do without a model: --encoder hashing") from e


def _trained_as_told(config: "FitConfig", training: options.Training) -> "FitConfig":
    from steerec.engine.lessons import with_training

    return with_training(config, epochs=training.epochs, device=training.device)


def _aids(earlier: Path | None, config: "FitConfig", out: Path) -> "Aids":
    """Where a fit keeps its place, beside its snapshot, and what it goes on from."""
    from steerec.engine.lessons import Aids, going_on_from
    from steerec.engine.snapshot import load_snapshot

    checkpoints = out.absolute().with_name(f".{out.absolute().name}.training")
    if earlier is None:
        return Aids(checkpoints)
    return going_on_from(load_snapshot(earlier), share=config.refit_share, checkpoints=checkpoints)


def _save(model: "Model", out: Path, aids: "Aids") -> None:
    """Write the snapshot; what was kept to make it is not needed any more."""
    from steerec.engine.snapshot import save_snapshot

    save_snapshot(model, out, now=time.time())
    if aids.checkpoints is not None:
        shutil.rmtree(aids.checkpoints, ignore_errors=True)


def fit_showing(
    data: Any, config: "FitConfig", rng: "np.random.Generator", *, aids: "Aids | None" = None
) -> "Model":
    """Fit with a bar."""
    from steerec.engine.model import fit

    with show.progress() as step:
        return fit(data, config, rng, progress=step, aids=aids)


def measure(
    task: "Task", settings: "Settings", config: "FitConfig", *, seed: int, ablation: bool = False
) -> dict[str, Any]:
    """Encode the task's items, fit and evaluate; `seconds` gains encode and total."""
    from steerec.engine import evaluate as engine
    from steerec.engine.texts import task_with_vectors

    began = time.perf_counter()
    vectors = encode_showing(task.split.train.items, settings)
    encoded = time.perf_counter() - began
    with show.progress() as step:
        result = engine.evaluate(
            task_with_vectors(task, vectors), config, seed=seed, progress=step, ablation=ablation
        )
    total = time.perf_counter() - began
    result["seconds"] = {"encode": encoded, **result["seconds"], "total": total}
    result["encoder"] = {
        "note": vectors.note, "encoded": vectors.encoded, "cached": vectors.cached
    }  # fmt: skip
    return result


def print_result(result: Mapping[str, Any]) -> None:
    """The comparison, what must be known to read it, and the answer in words."""
    from steerec.evaluation.wording import METRICS, PROTOCOLS, TRACKS, answer

    console = show.out()
    console.print(f"{PROTOCOLS[result['protocol']]} {TRACKS[result['track']]}")
    console.print(
        f"{counted(result['requests'], 'request')} of {counted(result['users'], 'user')}; "
        "figures are means, intervals come from resampling users."
    )
    for note in result["notes"]:
        console.print(f"Note: {show.escape(note)}")
    console.print(show.comparison_table(result))
    for metric in ("ndcg@10", show.second_metric(result)):
        console.print(f"[dim]{metric.upper()}: {METRICS[metric.partition('@')[0]]}[/]")
    console.print(answer(result))
    if "ablation" in result:
        console.print(show.ablation_table(result))
    off = result["reliability"]["blend"]["error_nats"]
    if off is not None:
        console.print(
            f"The chances it gives items are off by a factor of {exp(off):.2f} on average."
        )
    seconds = result["seconds"]
    parts = ", ".join(f"{name} {seconds[name]:.1f} s" for name in ("encode", "fit", "evaluate"))
    console.print(f"[dim]{parts}; peak memory {result['peak_rss_mib'] / 1024:.1f} GiB[/]")


def write_result(
    result: Mapping[str, Any], json: Path | None, report: Path | None, *, command: str
) -> None:
    """Write the JSON and the page that were asked for, and say where they lie."""
    from steerec.evaluation.report import render_report

    if json is not None:
        options.write_text(json, show.as_json(result) + "\n")
        show.out().print(f"Result: {json}", soft_wrap=True)
    if report is not None:
        options.write_text(report, render_report({**result, "command": command}))
        show.out().print(f"Report: {report}", soft_wrap=True)


def print_model(model: "Model", config: "FitConfig") -> None:
    """Each head's time and its say, for a typical user and for a new one."""
    usual, new = head_weights(model)
    made = show.table("Head", "Fit", "Weight", "New user", "In words", right=(1, 2, 3))
    for name in sorted(usual, key=lambda n: -usual[n]):
        seconds = f"{model.seconds.get(name, 0.0):.1f} s"
        words = in_words(usual[name], sum(max(w, 0.0) for w in usual.values()))
        made.add_row(name, seconds, f"{usual[name]:+.2f}", f"{new[name]:+.2f}", words)
    show.out().print(made)
    print_left_out(model, config)
    print_quiet(model)


def print_left_out(model: "Model", config: "FitConfig") -> None:
    """The heads that were asked for and are not there."""
    gone = [name for name in config.heads if name not in model.heads]
    for names, words in (
        ([name for name in gone if name not in model.say], "these data cannot teach it"),
        ([name for name in gone if name in model.say], "it does not help on held-out events"),
    ):
        if names:
            show.out().print(f"Left out, for {words}: {', '.join(names)}")


def print_quiet(model: "Model") -> None:
    """The heads that are there and might as well not be."""
    from steerec.engine.weights import LEAST_SAY

    names = [name for name in model.heads if model.say.get(name, 1.0) < LEAST_SAY]
    if names:
        show.out().print(f"Carries no weight, and is left out with --drop-idle: {', '.join(names)}")


def head_weights(model: "Model") -> tuple[dict[str, float], dict[str, float]]:
    """Mean weight of each head over up to 1,000 users, and its weight for a user without events."""
    import numpy as np

    from steerec.contracts import History

    data = model.data
    some = np.flatnonzero(np.diff(data.starts))
    some = some[:: max(1, len(some) // 1_000)]
    now = np.nanmax(data.time) if data.has_times else np.nan
    usual = model.weights([data.history(int(u)) for u in some], np.full(len(some), now)).mean(0)
    new = model.weights([History.of([])], np.array([now]))[0]
    names = tuple(model.heads)
    return dict(zip(names, usual.tolist(), strict=True)), dict(
        zip(names, new.tolist(), strict=True)
    )


def in_words(weight: float, total: float) -> str:
    """How much a head has to say, by its share of the positive weights."""
    share = weight / total if total > 0 else 0.0
    steps = ((0.3, "leads"), (0.15, "strong say"), (0.05, "some say"), (-0.05, "hardly heard"))
    return next((words for least, words in steps if share >= least), "counts against")


def _trained(model: "Model", vectors: "ItemVectors", out: Path) -> dict[str, Any]:
    usual, new = head_weights(model)
    return {
        "snapshot": str(out),
        "heads": list(model.heads),
        "seconds": dict(model.seconds),
        "weights": usual,
        "weights_new_user": new,
        "say": dict(model.say),
        "repeats": model.repeats,
        "encoder": vectors.note,
        "data_hash": model.data.content_hash,
    }


def _tables(source: Any, settings: "Settings", *, clean: bool) -> "Tables":
    from steerec.data.clean import clean as clean_tables
    from steerec.engine.intake import read_source

    with show.progress() as step:
        step(f"read {source.data}", 0, None)
        read = read_source(
            source, progress=lambda done, total: step(f"download {source.data}", done, total)
        )
    for line in show.mapping_lines(read):
        show.out().print(line)
    if not clean:
        return read.tables
    cleaned = clean_tables(read.tables, settings.clean, now=time.time())
    show.print_cleaning(show.out(), cleaned.report)
    return cleaned.tables


def _prepared(tables: "Tables", protocol: str, track: str | None, data: str) -> "Task":
    from steerec.evaluation.protocols import prepare

    with show.progress() as step:
        step("prepare the protocol", 0, None)
        task = prepare(tables, protocol, track, name=data)
    return replace(task, notes=(*(f"{k}: {v}" for k, v in tables.notes.items()), *task.notes))
