"""RESULTS.md from results/*.json."""

import json

SHOWN = {
    "auc": ("AUC", 1, 4),
    "ks": ("KS", 1, 4),
    "precision": ("precision", 100, 1),
    "recall": ("recall", 100, 1),
    "recall_5fpr": ("recall at 5 % false positives", 100, 1),
    "ece": ("calibration error", 100, 2),
    "log_loss": ("log loss", 1, 4),
    "missed": ("loss missed a case", 1, 2),
    "cost_by_cost": ("cost a case by threshold", 1, 2),
    "reviewed_by_cost": ("reviewed by threshold", 100, 1),
}


def write_table(folder):
    """All results that are there, one section a set."""
    lines = ["# Risk: what is true", "", "Written by `run.py --table` from `results/`.", ""]
    for file in sorted((folder / "results").glob("*.json")):
        result = json.loads(file.read_text("utf-8"))
        lines += [f"## {result['id']}", "", about(result), ""]
        if "runs" in result:
            for name, run in result["runs"].items():
                lines += [f"### {name}", "", *tables(run)]
        else:
            lines += [*tables(result), *by_month(result)]
    (folder / "RESULTS.md").write_text("\n".join(lines).rstrip() + "\n", "utf-8")


def about(result):
    return (
        f"Commit {result['commit']}, data {result['data_hash'][:12]}, seed {result['seed']}, "
        f"{result['machine']}, load {result['load']}, {result['cpu_s']} CPU seconds. "
        f"{result['interval']}."
    )


def tables(run):
    """Figures of each way, and ours against it."""
    keys = list(SHOWN)
    yield "| way | " + " | ".join(SHOWN[key][0] for key in keys) + " |"
    yield "|---|" + "---|" * len(keys)
    for way, found in run["figures"].items():
        yield f"| {way} | " + " | ".join(cell(found[key], *SHOWN[key][1:]) for key in keys) + " |"
    yield ""
    changes = list(next(iter(run["against"].values())))
    yield "| ours against | " + " | ".join(changes) + " |"
    yield "|---|" + "---|" * len(changes)
    for way, found in run["against"].items():
        cells = [
            cell(found[key], 100, 1, sign="+", unit=" %")
            if "relative" in key
            else cell(found[key], 1, 4, sign="+")
            for key in changes
        ]
        yield f"| {way} | " + " | ".join(cells) + " |"
    yield ""


def by_month(result):
    """AUC of every decision month; the first counts in no other figure."""
    months = len(next(iter(result["auc_by_month"].values())))
    yield "| AUC by month | " + " | ".join(str(2 + i) for i in range(months)) + " |"
    yield "|---|" + "---|" * months
    for way, found in result["auc_by_month"].items():
        yield f"| {way} | " + " | ".join(f"{value:.3f}" for value in found) + " |"
    yield ""


def cell(value, factor, digits, *, sign="", unit=""):
    mean, (low, high) = factor * value["mean"], (factor * v for v in value["ci"])
    form = f"{{:{sign}.{digits}f}}"
    return f"{form.format(mean)}{unit} [{form.format(low)}, {form.format(high)}]"
