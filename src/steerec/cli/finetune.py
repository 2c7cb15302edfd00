"""The verb that fine-tunes a text encoder on the log."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerec.cli import options, show
from steerec.cli.intake import print_intake, take_in_showing
from steerec.data.counted import counted

if TYPE_CHECKING:
    from steerec.config import Settings
    from steerec.data.dataset import Dataset
    from steerec.encoders.finetuned import FineTuneConfig, FineTuned


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Examples:\n\n"
        "steerec finetune --data dataset/ --out encoder/\n\n"
        'then, in steerec.toml, \\[encoder] model = "encoder", and steerec train as before'
    )(options.spread(finetune))


def finetune(
    data: options.Data,
    files: options.Files,
    out: Annotated[Path, typer.Option("--out", help="Folder of the model.")] = Path("encoder"),
    steps: Annotated[int | None, typer.Option(min=1, help="Most batches.")] = None,
    config: options.Config = None,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    *,
    json: options.AsJson = False,
) -> None:
    """Teach the text encoder which texts people take after which; writes a model folder.

    Nothing is written where held-out steps are foretold no better than before. The same command
    goes on where a killed one stopped.
    """
    from steerec.encoders.finetuned import check_folder

    settings = options.settings_of(config, threads=threads)
    how = settings.finetune if steps is None else replace(settings.finetune, steps=steps)
    check_folder(out)
    source = options.source_of(settings, data, files)
    came = take_in_showing(source, settings.clean, now=time.time())
    if not json:
        print_intake(came)
    made = _made(came.data, settings, how, seed, out)
    made.save(out)
    _checkpoint(out).unlink(missing_ok=True)
    if json:
        typer.echo(show.as_json({"model": str(out), **made.told()}))
        return
    _print_gain(made, out)


def _made(
    data: "Dataset", settings: "Settings", how: "FineTuneConfig", seed: int, out: Path
) -> "FineTuned":
    """Train with a bar."""
    from steerec.encoders.finetune import base_model, finetune
    from steerec.encoders.pairs import pairs_of
    from steerec.engine.texts import texts_of

    base = base_model(settings.encoder, settings.cache_dir / "vectors")
    pairs, held_out = pairs_of(data, texts_of(data.items, settings.data.template), last=how.last)
    with show.progress() as step:
        made = finetune(
            base,
            pairs,
            held_out,
            how,
            seed=seed,
            threads=settings.encoder.threads,
            checkpoint=_checkpoint(out),
            watch=lambda done, total: step("fine-tune encoder", done, total),
        )
    return replace(made, about={"data_hash": data.content_hash, "seed": seed})


def _checkpoint(out: Path) -> Path:
    return out.absolute().with_name(f".{out.absolute().name}.training")


def _print_gain(made: "FineTuned", out: Path) -> None:
    console = show.out()
    console.print(
        f"Learnt from {counted(made.n_pairs, 'pair')} in {made.seconds:.0f} s, best after "
        f"{max(made.curve, key=lambda point: point[1])[0]} steps."
    )
    console.print(
        f"Held-out steps, NDCG@10 among {made.pool:,} texts: {made.before:.3f} before, "
        f"{made.after:.3f} after."
    )
    console.print(
        f'Model: {out}/  (next: name it in steerec.toml, \\[encoder] model = "{out}", and train)'
    )
