"""Seconds and memory to import 10 million events: read, clean, build; a process for each form."""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from steerec.data.clean import CleanConfig, clean
from steerec.data.dataset import build_dataset
from steerec.data.read import read_tables

HERE = Path(__file__).parent
NOW = 1.75e9
SEED = 0


def generate(path: Path, n_events: int, rng: np.random.Generator) -> None:
    """Events with long tails of users and items, four kinds, some dirt; 1 in 500 is a repeat."""
    n_users, n_items = n_events // 50, n_events // 200
    user = (n_users * rng.random(n_events) ** 2).astype(np.int64)
    item = (n_items * rng.random(n_events) ** 3).astype(np.int64)
    kind = rng.choice(np.array(["view", "view", "view", "click", "cart", "purchase"]), n_events)
    time_s = np.floor(1.6e9 + 1e8 * rng.random(n_events))
    table = pl.DataFrame(
        {"customer": user, "sku": item, "event": kind, "quantity": rng.integers(1, 6, n_events)}
    ).select(
        pl.format("user-{}", pl.col("customer")).alias("customer"),
        pl.when(pl.int_range(pl.len()) % 1000 != 7)
        .then(pl.format("item-{}", pl.col("sku")))
        .alias("sku"),
        "event",
        "quantity",
        pl.Series("timestamp", time_s).cast(pl.Int64),
    )
    table = pl.concat([table, table.head(n_events // 500)]).head(n_events)
    table = pl.concat([table.head(n_events - n_events // 500), table.head(n_events // 500)])
    write = table.write_csv if path.suffix == ".csv" else table.write_parquet
    write(path)


def measure(path: Path) -> dict[str, object]:
    """Import one file; seconds by stage and the peak memory of this process."""
    start = time.perf_counter()
    tables = read_tables(path).tables
    read = time.perf_counter()
    cleaned = clean(tables, CleanConfig(), now=NOW)
    del tables
    done = time.perf_counter()
    data = build_dataset(cleaned.tables.events)
    built = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "form": path.suffix[1:],
        "n_events_kept": data.n_events,
        "n_rejected": cleaned.report.rejected("events"),
        "seconds": {
            "read": round(read - start, 2),
            "clean": round(done - read, 2),
            "build": round(built - done, 2),
            "total": round(built - start, 2),
            "cpu": round(time.process_time(), 2),
        },
        "peak_rss_mib": peak // (1024 if sys.platform != "darwin" else 1024**2),
        "file_mib": path.stat().st_size // 2**20,
    }


def run_all(n_events: int) -> dict[str, object]:
    """Generate, measure each form in a fresh process, describe the run."""
    results = []
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        for form in ("csv", "parquet"):
            path = Path(folder) / f"events.{form}"
            child = [sys.executable, __file__, "--n", str(n_events)]
            subprocess.run([*child, "--generate", path], check=True)
            out = subprocess.run([*child, "--measure", path], check=True, stdout=subprocess.PIPE)
            results.append(json.loads(out.stdout))
            path.unlink()
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True
    )
    return {
        "benchmark": "import_speed",
        "commit": commit.stdout.strip(),
        "seed": SEED,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, polars {pl.__version__}",
        "load_average_before": round(load, 1),
        "n_events": n_events,
        "results": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10_000_000)
    parser.add_argument("--generate", type=Path)
    parser.add_argument("--measure", type=Path)
    parser.add_argument("--json", type=Path, default=HERE / "result.json")
    options = parser.parse_args()
    if options.generate:
        generate(options.generate, options.n, np.random.default_rng(SEED))
    elif options.measure:
        print(json.dumps(measure(options.measure)))
    else:
        report = run_all(options.n)
        options.json.write_text(json.dumps(report, indent=2) + "\n")
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
