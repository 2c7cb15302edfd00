"""Routes of experiments: start one, see what it has shown so far, stop it."""

from dataclasses import asdict
from http import HTTPStatus

import msgspec

from steerec.engine.experiments import follow_experiments, start
from steerec.engine.trials import plan_of
from steerec.engine.verdicts import Case, verdict
from steerec.service.calls import Call
from steerec.service.problems import refused
from steerec.service.schemas import ExperimentIn, ExperimentOut, ExperimentsOut, Json
from steerec.store.experiments import Planned


def get_experiments(call: Call) -> ExperimentsOut:
    """All experiments, the oldest first, as they were planned."""
    found = call.tenant.store.experiments.list(call.tenant.name)
    return ExperimentsOut(experiments=[_out(planned) for planned in found])


def post_experiment(call: Call) -> ExperimentOut:
    """Start an experiment; users fall into its arms from the next request on.

    The plan cannot be changed afterwards: metric, arms and shares are what they were before the
    first user was in it. An arm without `version`, `weights` and `dials` shows what is in force.
    """
    body: ExperimentIn = call.body
    store, name = call.tenant.store, call.tenant.name
    if store.experiments.get(name, body.name) is not None:
        raise refused(
            HTTPStatus.CONFLICT,
            f"experiment {body.name!r} exists already: results are kept, choose another name",
        )
    planned = start(
        store,
        name,
        plan_of(msgspec.to_builtins(body)),
        call.tenant.live.config.tuning.reward,
        author=call.caller.key_id or "owner",
        now=call.now,
    )
    follow_experiments(call.tenant.live, store)
    return _out(planned)


def get_experiment(call: Call) -> ExperimentOut:
    """One experiment with its results so far, which may be looked at any time.

    Means and differences come with intervals that hold at every look. Nothing is concluded while
    the split is broken or users are too few.
    """
    planned = _found(call)
    return _out(planned, _results(call, planned))


def post_experiment_stop(call: Call) -> ExperimentOut:
    """Stop an experiment: its users get what is in force; its results stay."""
    planned = _found(call)
    store = call.tenant.store
    stopped = store.experiments.stop(call.tenant.name, planned.name, now=call.now)
    follow_experiments(call.tenant.live, store)
    return _out(stopped, _results(call, stopped))


def _found(call: Call) -> Planned:
    name = call.path["name"]
    found = call.tenant.store.experiments.get(call.tenant.name, name)
    if found is None:
        raise refused(
            HTTPStatus.NOT_FOUND, f"no experiment is called {name!r}: GET /api/experiments"
        )
    return found


def _results(call: Call, planned: Planned) -> Json:
    config = call.tenant.live.config.tuning.reward
    case = Case(call.tenant.store, call.tenant.name, planned, config, call.now)
    return asdict(verdict(case))


def _out(planned: Planned, results: Json | None = None) -> ExperimentOut:
    return ExperimentOut(
        name=planned.name,
        plan=dict(planned.plan),
        author=planned.author,
        started=planned.started,
        stopped=planned.stopped,
        results=results,
    )
