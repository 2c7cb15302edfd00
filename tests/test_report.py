import json
import re
from html.parser import HTMLParser

import pytest

from steerec.errors import DataError
from steerec.evaluation import page
from steerec.evaluation.report import render_report
from steerec.evaluation.wording import answer, feature_words


def model(ndcg, hr):
    return {
        "ndcg@10": ndcg,
        "hr@10": hr,
        "coverage": 0.4,
        "ci": {"ndcg@10": [ndcg - 0.01, ndcg + 0.01], "hr@10": [hr - 0.02, hr + 0.02]},
    }


@pytest.fixture
def result():
    models = {
        "popularity": model(0.02, 0.04),
        "recent_popularity": model(0.015, 0.03),
        "ease": model(0.12, 0.24),
        "blend": model(0.19, 0.318),
    }
    return {
        "protocol": "loo",
        "track": "time-blind",
        "data": "films",
        "data_hash": "ab12",
        "commit": "c0ffee",
        "seed": 7,
        "machine": "2 cores",
        "seconds": {"encode": 0.0, "fit": 48.0, "evaluate": 61.0, "total": 200.0},
        "peak_rss_mib": 1536.0,
        "results": models,
        "slices": {
            "new_users": {"n": 12, **{k: {"ndcg@10": v["ndcg@10"]} for k, v in models.items()}},
            "cold_items": {"n": 0},
        },
        "weights": {"bias": {"ease": 0.8}, "short_history": {"ease": -0.1}},
        "paired": {"blend - ease": {"difference": 0.07, "low": 0.05, "high": 0.09, "p": 0.00199}},
    }


class Outline(HTMLParser):
    """Fails on tags that are closed in another order than opened; collects the text."""

    VOID = ("meta", "img", "br")

    def __init__(self):
        super().__init__()
        self.open, self.text, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(html):
    outline = Outline()
    outline.feed(html)
    outline.close()
    assert outline.open == []
    return outline


def test_the_answer_is_one_paragraph_in_words(result):
    assert answer(result) == (
        "The blend finds the next item in the first ten places in 31.8 % of cases (95 % certain: "
        "between 29.8 % and 33.8 %), 8 times as often as popularity (4.0 %). The best single "
        "model, ease, reaches 24.0 %: putting the models together finds 78 more in a thousand."
    )


def test_features_of_a_request_are_told_in_words():
    told = {
        "bias": "always",
        "length~0": "no history",
        "length~20": "history of about 20 events",
        "gap~86400s": "last event a day ago",
        "taste0": "taste, direction 1",
        "scenario=home": "scenario home",
    }
    assert {name: feature_words(name) for name in told} == told


def test_notes_and_cleaning_are_part_of_how_it_was_measured(result):
    html = render_report({**result, "notes": ["5 of 9 requests"], "cleaned": False})
    text = " ".join(read(html).text)
    assert "Note: 5 of 9 requests" in text
    assert "no, the rows as they are" in text


def test_a_blend_that_loses_is_said_to_lose(result):
    result["results"]["blend"] = model(0.01, 0.03)
    assert "less often than popularity (4.0 %)" in answer(result)
    assert "finds 210 fewer in a thousand" in answer(result)


def test_without_a_blend_the_best_model_answers(result):
    del result["results"]["blend"]
    assert answer(result).startswith("The model ease finds the next item")


def test_a_basket_is_described_as_one(result):
    assert "has at least one item of the next basket" in answer({**result, "protocol": "basket"})


def test_the_report_shows_every_figure_and_how_it_was_measured(result):
    outline = read(render_report(result))
    text = " ".join(outline.text)
    for shown in ("0.1900", "0.1800–0.2000", "c0ffee", "48.0 s", "3.3 min", "1,536 MiB", "ab12"):
        assert shown in text, shown
    assert "steerec evaluate --data films --protocol loo --track time-blind --seed 7" in text
    assert "Fewer than 20 requests, so read with care: new users" in text
    assert "never seen in training" not in text  # an empty slice is no part of the page
    assert "< 0.002" in text
    assert sum(tag == "svg" for tag, _ in outline.tags) == 3
    assert all(a["aria-label"] for tag, a in outline.tags if tag == "svg")


def test_the_report_tells_what_each_model_brings_and_whether_chances_come_true(result):
    lost = {"difference": 0.021, "low": 0.011, "high": 0.031, "p": 0.002}
    result["ablation"] = {"ease": {"ndcg@10": 0.169, "ndcg@10 lost": lost}}
    bins = [
        {"items": 100_000, "given": 10.0, "hits": 12.0},
        {"items": 1_000, "given": 50.0, "hits": 48.0},
        {"items": 3, "given": 2.0, "hits": 1.0},
    ]
    result["reliability"] = {
        "ease": {"error_nats": 0.6931472, "bins": bins},
        "blend": {"error_nats": None, "bins": bins},
    }
    outline = read(render_report(result))
    text = " ".join(outline.text)
    assert "What each model brings" in text
    assert "+0.0110 to +0.0310" in text
    assert "a factor of 2.00" in text
    drawn = [a["aria-label"] for tag, a in outline.tags if tag == "svg"]
    assert "Reliability: blend off by an unknown factor; ease off by a factor of 2.00" in drawn
    result["reliability"] = {"blend": {"error_nats": None, "bins": bins[2:]}}
    assert "come true?" not in render_report(result)  # nothing that could be drawn


def test_the_report_needs_no_other_file(result):
    outline = read(render_report(result))
    for _, attributes in outline.tags:
        for name in ("src", "href", "xlink:href"):
            link = attributes.get(name) or "#"
            assert link.startswith(("#", "data:")), link


def test_only_results_are_needed(result):
    read(render_report({"results": {"ease": {"ndcg@10": 0.1, "hr@10": 0.2}}}))
    read(render_report({"results": {"ease": {"ndcg@10": 0.1, "recall@10": 0.2}}}))


def test_the_same_result_gives_the_same_page_even_from_json(result):
    assert render_report(result) == render_report(json.loads(json.dumps(result)))


def test_names_cannot_break_the_page(result):
    evil = "<script>$x^2$ 推荐 & \"'"
    result["results"][evil] = model(0.3, 0.5)
    result["weights"]["bias"][evil] = 0.4
    result["slices"][evil] = {"n": 30, evil: {"ndcg@10": 0.3}}
    html = render_report({**result, "data": evil, "command": evil, "machine": evil})
    assert "<script" not in html
    assert evil in " ".join(read(html).text)


def test_a_result_without_models_is_refused():
    with pytest.raises(DataError, match="holds no models"):
        render_report({"protocol": "loo", "results": {}})
    with pytest.raises(DataError, match="ndcg@k"):
        render_report({"results": {"ease": {"hr@10": 0.2}}})


def test_plain_text_is_escaped_and_markup_is_not():
    assert page.paragraph("a < b & c") == "<p>a &lt; b &amp; c</p>"
    assert page.escape(page.code("x")) == "<pre><code>x</code></pre>"


def test_columns_of_numbers_are_set_to_the_right():
    html = page.table(["name", "share"], [["a", "12.5 %"], ["b", ""], ["c", "1,000"]])
    assert re.findall('<th class="number">(.*?)</th>', html) == ["share"]


def test_figures_follow_the_colours_of_the_page():
    drawing, axes = page.chart()
    axes.plot([0, 1], [1, 0], label="falling")
    page.legend(axes)
    html = page.figure(drawing, alt="a < b")
    assert page.INK not in html
    assert "currentColor" in html
    assert 'aria-label="a &lt; b"' in html
    raster = page.figure(drawing, alt="the same", raster=True)
    assert 'src="data:image/png;base64,iVBOR' in raster
