"""Texts per second of the encoders, on generated titles of about 30 tokens.

    python benchmarks/encoding/run.py --cache-dir CACHE --out benchmarks/encoding/result.json

Goal (PROTOCOLS): int8 on ONNX Runtime at 450 texts/s or more on two cores.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np

from steerec.encoders import EncoderConfig, load_encoder, open_encoder
from steerec.encoders.cache import CachedEncoder

SCENARIO = "encoding-30-token-titles-v1"
# fmt: off
_WORDS = [
    "blue", "red", "warm", "light", "small", "large", "wooden", "cotton", "steel",
    "leather", "garden", "kitchen", "travel", "summer", "winter", "classic", "modern", "quiet",
    "shirt", "chair", "lamp", "knife", "boots", "bag", "mug", "table", "jacket",
    "blanket", "basket", "puzzle", "novel", "film", "story", "for", "with", "and",
    "of", "in", "set", "gift", "box", "pair", "soft", "strong", "simple",
]
# fmt: on


def titles(n, seed):
    """About 30 word pieces each: these words are one piece, two more mark the ends."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(_WORDS, rng.integers(26, 31))) for _ in range(n)]


def rates(encoder, texts, rounds):
    encoder.encode(texts[:64])  # warm
    wall, cpu = [], []
    for _ in range(rounds):
        start, start_cpu = time.perf_counter(), time.process_time()
        encoder.encode(texts)
        wall.append(len(texts) / (time.perf_counter() - start))
        cpu.append(len(texts) / (time.process_time() - start_cpu))
    return {
        "median": statistics.median(wall),
        "min": min(wall),
        "max": max(wall),
        "per_cpu_second": statistics.median(cpu),  # says more where the machine is shared
    }


def cache_rates(cache_dir, n):
    """Writing and reading n vectors of 384 numbers, the hashing encoder standing in."""
    texts = [f"title {i}" for i in range(n)]
    made = CachedEncoder(load_encoder("hashing")(dim=384), cache_dir / "cache-benchmark")
    made.path.unlink(missing_ok=True)
    start = time.perf_counter()
    made.encode(texts)
    written = time.perf_counter() - start
    start = time.perf_counter()
    made.encode(texts)
    read = time.perf_counter() - start
    made.path.unlink()
    return {"n": n, "encode_and_write_s": written, "read_s": read}


def machine():
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def commit():
    here = Path(__file__).parent
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache-dir", type=Path, required=True, help="keeps the int8 model")
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--cache-texts", type=int, default=100_000)
    args = parser.parse_args()
    report = {"scenario": SCENARIO, "commit": commit(), "seed": args.seed, "machine": machine()}
    report |= {"texts": args.texts, "rounds": args.rounds, "threads": args.threads}
    texts = titles(args.texts, args.seed)
    vectors, report["texts_per_s"] = {}, {}
    for name in ("onnx", "text"):
        config = EncoderConfig(encoder=name, threads=args.threads)
        opened = open_encoder(config, cache_dir=args.cache_dir)
        encoder = load_encoder(name).open(config, args.cache_dir)  # past the vector cache
        vectors[name] = opened.encode(texts)
        report["texts_per_s"][name] = rates(encoder, texts, args.rounds)
    cosine = (vectors["onnx"] * vectors["text"]).sum(axis=1)
    report["int8_cosine"] = {"mean": float(cosine.mean()), "min": float(cosine.min())}
    report["vector_cache"] = cache_rates(args.cache_dir, args.cache_texts)
    text = json.dumps(report, indent=2)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
