"""Learning curves: kept over both rounds of a fit, told in the result, drawn in the report."""

import re

import numpy as np
import polars as pl

from steerec.data.tables import Tables
from steerec.engine.evaluate import evaluate
from steerec.engine.lessons import Aids, Teacher
from steerec.engine.model import FitConfig
from steerec.evaluation.curves import learning_curves
from steerec.evaluation.protocols import prepare
from worlds import shop

BRIEF = {"gru": {"epochs": 3, "length": 12, "threads": 1, "width": 16}}


def entry(epoch, loss, validation=None, **more):
    return {"epoch": epoch, "loss": loss, "validation": validation, "seconds": 1.5, **more}


def test_a_curve_goes_on_where_the_first_round_ended():
    data = shop(n_users=40, n_items=48, events_each=12).data
    teacher = Teacher(BRIEF, Aids(), lambda what, done, total: None)
    first = teacher.fit("gru", data, np.random.default_rng(0))
    n = len(first.curve)
    further = teacher.go_on("gru", first, data, np.random.default_rng(1), share=0.5)
    assert further.curve[:n] == first.curve
    assert [e["epoch"] for e in further.curve] == list(range(1, n + 3))  # ceil(3 · 0.5) = 2 more
    assert [e.get("continued", False) for e in further.curve] == [False] * n + [True] * 2


def test_evaluate_tells_the_curves_of_heads_that_train():
    data = shop(n_users=40, n_items=48, events_each=12).data
    events = pl.DataFrame(
        {
            "user_id": data.user_ids[data.user_idx].tolist(),
            "item_id": data.item_ids[data.item_idx].tolist(),
            "timestamp": data.time,
        }
    )
    task = prepare(Tables(events, data.items, data.users), "loo")
    config = FitConfig(heads=("trending", "gru"), settings=BRIEF)
    curves = evaluate(task, config)["curves"]
    assert set(curves) == {"gru"}
    assert set(curves["gru"][0]) == {"epoch", "loss", "validation", "seconds"}


def test_curves_are_drawn_and_summed_up():
    curves = {
        "sequence": [entry(1, 3.0, 0.1), entry(2, 2.0, 0.25), entry(3, 1.5, None, continued=True)],
        "gru": [entry(1, 4.0)],
        "untaught": [],
    }
    heading, drawing, table = learning_curves(curves)
    assert "How the trained models learnt" in heading
    assert "sequence 3 epochs, last loss 1.5000; gru 1 epochs" in drawing
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>.*?</tr>", table)]
    assert rows[1] == ["sequence", "3", "1.5000", "0.2500", "4.5"]
    assert rows[2] == ["gru", "1", "4.0000", "", "1.5"]
    assert learning_curves({"untaught": []}) == []
