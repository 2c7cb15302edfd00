"""The command line: thin verbs over the library. Heavy imports wait until a verb runs."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from steerec.cli import (
    archive,
    ask,
    demo,
    experiments,
    finetune,
    intake,
    learn,
    refit,
    search,
    serve,
    simulate,
    strategy,
)
from steerec.cli.show import notes_on_stderr
from steerec.cli.threads import sleep_while_waiting
from steerec.errors import SteerecError
from steerec.version import __version__

__all__ = ["app", "main"]


class _Verbs(TyperGroup):
    """The verbs; what steerec raises on purpose becomes one message and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SteerecError as e:
            if ctx.params.get("debug"):
                raise
            typer.echo(f"error: {e}", err=True)
            typer.echo("(steerec --debug VERB … shows where it happened)", err=True)
            sys.exit(1)


app = typer.Typer(
    name="steerec",
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A self-hosted recommender that learns, can be steered, and proves each change.",
    epilog="Start here: [bold]steerec demo[/bold]  ·  "
    "then: [bold]steerec import --data my_folder --out dataset/[/bold]",
)


def _show_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=lambda wanted: _show_version(wanted=wanted),
            help="Print the version and stop.",
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    pass


demo.register(app)
intake.register(app)
learn.register(app)
search.register(app)
finetune.register(app)
ask.register(app)
serve.register(app)
refit.register(app)
archive.register(app)
simulate.register(app)
strategy.register(app)
experiments.register(app)


def main() -> None:
    """Run the command line."""
    sleep_while_waiting()
    notes_on_stderr()
    app()
