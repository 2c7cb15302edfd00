"""The verbs of a running service: serve, and its keys."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerec.cli import options, show

if TYPE_CHECKING:
    from steerec.config import Settings
    from steerec.engine.model import Model

key = typer.Typer(
    no_args_is_help=True,
    help="API keys: create, list, revoke.",
    epilog="Example:\n\nsteerec key create --scope read --scope events --label web-shop",
)


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command(
        epilog="Examples:\n\n"
        "steerec serve --snapshot snapshot/\n\n"
        "steerec serve --sample --port 8080\n\n"
        "steerec serve --tls-certificate cert.pem --tls-key key.pem\n\n"
        "steerec serve --config steerec.toml"
    )(serve)
    app.add_typer(key, name="key")


def serve(
    *,
    snapshot: options.MaybeSnapshot = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Serve the built-in sample shop, fitted now.")
    ] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes, over one SQLite file, or PostgreSQL and Redis."),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(metavar="PEM", help="Certificate: with --tls-key, it speaks HTTPS."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Key of the certificate.")
    ] = None,
    config: options.Config = None,
) -> None:
    """Serve recommendations over HTTP: every event that is accepted counts on the next list.

    Without a snapshot it begins with nothing, and learns from the items and events it is sent.
    """
    from dataclasses import replace

    from steerec.service.addresses import check_certificate

    settings = options.settings_of(config)
    told: dict[str, Any] = {"host": host, "port": port, "workers": workers}
    told |= {"tls_certificate": tls_certificate, "tls_key": tls_key}
    told = {name: value for name, value in told.items() if value is not None}
    settings = replace(settings, service=replace(settings.service, **told))
    check_certificate(settings.service)
    if settings.service.workers > 1:
        _serve_many(settings, snapshot, config, sample=sample)
    else:
        _serve_one(settings, snapshot, config, sample=sample)


def _serve_one(
    settings: "Settings", snapshot: Path | None, config: Path | None, *, sample: bool
) -> None:
    """One process; it has its port before anything that takes long."""
    from contextlib import ExitStack
    from dataclasses import replace

    from steerec.service.addresses import taken

    with ExitStack() as held:
        sockets = taken(settings.service.host, settings.service.port)
        for one in sockets:
            held.enter_context(one)
        port = sockets[0].getsockname()[1]
        settings = replace(settings, service=replace(settings.service, port=port))

        from steerec.service.server import build, leaving, run  # a second
        from steerec.service.telemetry import log_as_json

        model = _sample_model(settings) if sample else None
        began = time.perf_counter()
        where, docs = settings.service.addresses

        def ready() -> None:
            show.out().print(f"Ready in {time.perf_counter() - began:.1f} s: {where}, {docs}")
            if model is not None:
                _print_requests(where, str(model.data.user_ids[0]), str(model.data.item_ids[0]))

        service = build(settings, snapshot=snapshot, model=model, file=config)
        log_as_json()
        with leaving():
            run(service, sockets, ready=ready)


def _serve_many(
    settings: "Settings", snapshot: Path | None, config: Path | None, *, sample: bool
) -> None:
    from steerec.service.telemetry import log_as_json
    from steerec.service.workers import Told, run_many

    if sample:
        raise typer.BadParameter("--sample is served by one process: leave out --workers")
    began = time.perf_counter()
    where, docs = settings.service.addresses

    def ready() -> None:
        show.out().print(f"Ready in {time.perf_counter() - began:.1f} s: {where}, {docs}")

    show.out().print(f"{settings.service.workers} processes begin on {where}")
    log_as_json()
    run_many(Told(settings, snapshot, config), ready)


@key.command("create")
def create(
    *,
    tenant: options.Tenant = "default",
    scope: Annotated[
        list[str], typer.Option(help="read, events, catalogue, operate or admin; repeatable.")
    ] = ["read", "events"],  # noqa: B006  Typer reads it
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
    config: options.Config = None,
) -> None:
    """Make a key; its text is shown this once."""
    from steerec.service.gate import SCOPES

    unknown = sorted(set(scope) - set(SCOPES) | {"open"} & set(scope))
    if unknown:
        known = ", ".join(name for name in SCOPES if name != "open")
        raise typer.BadParameter(f"--scope {', '.join(unknown)}: expected some of {known}")
    with options.opened_store(config, make=True) as store:
        text, made = store.keys.issue(tenant, scope, now=time.time(), label=label)
    told = f"Key {made.key_id} of {tenant}: may {', '.join(made.scopes)}."
    show.out().print(f"{text}\n{told}", soft_wrap=True, markup=False)  # a key is one line


@key.command("list")
def list_keys(*, tenant: options.Tenant = "default", config: options.Config = None) -> None:
    """The keys of a tenant, revoked ones too."""
    with options.opened_store(config) as store:
        for made in store.keys.list(tenant):
            state = "revoked" if made.revoked else "good"
            told = f"{made.key_id} {state}: {', '.join(made.scopes)} {made.label}"
            show.out().print(told, soft_wrap=True, markup=False)


@key.command("revoke")
def revoke(
    key_id: str, *, tenant: options.Tenant = "default", config: options.Config = None
) -> None:
    """Make a key worthless, within seconds in services that run."""
    with options.opened_store(config) as store:
        done = store.keys.revoke(tenant, key_id, now=time.time())
    if not done:
        raise typer.BadParameter(f"{tenant} has no key {key_id} in use: see `steerec key list`")
    show.out().print(f"Key {key_id} is revoked.")


def _sample_model(settings: "Settings") -> "Model":
    """The sample shop, fitted with the heads that take seconds."""
    import numpy as np

    from steerec.engine.intake import Source, take_in
    from steerec.engine.model import fit
    from steerec.engine.texts import encode_items, with_vectors

    with show.progress() as step:
        step("make the sample shop", 0, None)
        taken = take_in(
            Source(data="sample", cache_dir=settings.cache_dir), settings.clean, now=time.time()
        )
        step("encode", 0, None)
        found = encode_items(taken.data.items, settings.encoder, cache_dir=settings.cache_dir)
        data = with_vectors(taken.data, found)
        return fit(data, settings.fit_config(("quick",)), np.random.default_rng(0), progress=step)


def _print_requests(where: str, user: str, item: str) -> None:
    show.out().print(
        "Try:\n"
        f"  curl '{where}/api/recommend/{user}?n=3'\n"
        f"  curl -X POST {where}/api/events -d "
        f'\'{{"event_id":"e1","user_id":"{user}","item_id":"{item}","event":"click"}}\'\n'
        f"  curl '{where}/api/recommend/{user}?n=3'",
        soft_wrap=True,
    )
