"""--threads holds for every library that computes, however early or late it is loaded."""

import json
import os
import subprocess
import sys

import numpy as np
import typer
from threadpoolctl import threadpool_info, threadpool_limits
from typer.testing import CliRunner

from steerec.cli import options
from steerec.cli.threads import limited, sleep_while_waiting
from steerec.config import Deployment, ServiceConfig, Settings
from steerec.encoders import EncoderConfig
from steerec.service.server import build, run

COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
# A verb that loads what computes only when it runs, as all our verbs do.
VERB = """
import json, typer
from steerec.cli import options

def verb(learning: options.Learning) -> None:
    import numpy, scipy.linalg, polars, torch
    from threadpoolctl import threadpool_info
    found = {pool["internal_api"]: pool["num_threads"] for pool in threadpool_info()}
    found |= {"torch": torch.get_num_threads(), "polars": polars.thread_pool_size()}
    print(json.dumps(found))

app = typer.Typer()
app.command()(options.spread(verb))
app()
"""


def clean_environment(**more):
    kept = {name: value for name, value in os.environ.items() if name not in COUNTS}
    return {**kept, **more}


def test_libraries_loaded_later_compute_on_so_many_threads():
    answer = subprocess.run(
        [sys.executable, "-c", VERB, "--threads", "1"],
        capture_output=True, text=True, check=True, env=clean_environment(),
    )  # fmt: skip
    found = json.loads(answer.stdout)
    assert {"openblas", "torch", "polars"} <= set(found)
    assert set(found.values()) == {1}


def test_libraries_loaded_before_are_limited_while_the_verb_runs():
    np.eye(2) @ np.eye(2)
    before = threads_of_blas()
    told = []

    def verb(learning: options.Learning) -> None:
        told.append((threads_of_blas(), os.environ["OMP_NUM_THREADS"]))

    app = typer.Typer()
    app.command()(options.spread(verb))
    environment = dict(os.environ)
    assert CliRunner().invoke(app, ["--threads", "1"]).exit_code == 0
    assert told == [({1}, "1")]
    assert threads_of_blas() == before
    assert dict(os.environ) == environment


def test_a_service_answers_with_one_thread_of_blas(tmp_path, monkeypatch):
    told = []
    running = "steerec.service.server._Announced.run"
    monkeypatch.setattr(running, lambda *_: told.append(threads_of_blas()))
    for name in ("gc.freeze", "gc.set_threshold", "signal.signal"):  # of the whole process
        monkeypatch.setattr(name, lambda *_: None)
    database = Deployment(database_url=f"sqlite:///{tmp_path}/store.db")
    settings = Settings(
        deployment=database,
        encoder=EncoderConfig(encoder="none"),
        service=ServiceConfig(compiled=False),
    )
    np.eye(2) @ np.eye(2)
    with threadpool_limits(2, "blas"):
        run(build(settings), [])
        assert told == [{1}]
        assert threads_of_blas() == {2}


def threads_of_blas():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_the_limit_ends_when_the_work_fails(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "5")
    try:
        with limited(1):
            raise KeyError
    except KeyError:
        pass
    assert "OMP_NUM_THREADS" not in os.environ
    assert os.environ["MKL_NUM_THREADS"] == "5"


def test_fewer_than_one_thread_is_a_mistake_in_the_command():
    def verb(learning: options.Learning) -> None:
        raise AssertionError

    app = typer.Typer()
    app.command()(options.spread(verb))
    assert CliRunner().invoke(app, ["--threads", "0"]).exit_code == 2


def test_parts_that_count_their_own_threads_follow_unless_the_settings_say_otherwise(tmp_path):
    file = tmp_path / "steerec.toml"
    file.write_text("")
    settings = options.settings_of(file, threads=3)
    assert settings.encoder.threads == 3
    assert settings.fit_config(("als",)).settings["als"]["threads"] == 3
    file.write_text("[encoder]\nthreads = 2\n[heads.als]\nthreads = 1\n")
    settings = options.settings_of(file, threads=3)
    assert settings.encoder.threads == 2
    assert settings.fit_config(("als",)).settings["als"]["threads"] == 1


def test_the_command_lets_idle_threads_sleep_unless_told_otherwise(monkeypatch):
    code = (
        "import os, sys\nfrom steerec.cli import main\nsys.argv = ['steerec', '--version']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(os.environ['OMP_WAIT_POLICY'], os.environ['OPENBLAS_THREAD_TIMEOUT'])\n"
        "print('numpy' in sys.modules)"
    )
    ours = clean_environment()
    for name in ("OMP_WAIT_POLICY", "OPENBLAS_THREAD_TIMEOUT"):
        ours.pop(name, None)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ours)
    assert answer.stdout.splitlines()[-2:] == ["PASSIVE 4", "False"]
    for name, own in (("OMP_WAIT_POLICY", "ACTIVE"), ("OPENBLAS_THREAD_TIMEOUT", "20")):
        monkeypatch.setenv(name, own)
        sleep_while_waiting()
        assert os.environ[name] == own
