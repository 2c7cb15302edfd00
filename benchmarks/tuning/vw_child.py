"""Runs inside Vowpal Wabbit's own environment: answers blocks of arrays on its pipes.

A block asks for distributions (z, phi → probabilities) or tells what came of slates. Arrays come
and go as .npz bytes, each with its length in 8 bytes before it; nothing of steerec is imported.
"""

import io
import struct
import sys

import numpy as np
import vowpalwabbit


def receive(stream):
    head = stream.read(8)
    if len(head) < 8:
        return None
    body = stream.read(struct.unpack("<q", head)[0])
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def send(stream, **arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    stream.write(struct.pack("<q", out.getbuffer().nbytes))
    stream.write(out.getbuffer())
    stream.flush()


def action(z):
    return "|z " + " ".join(f"h{k}:{value:.4f}" for k, value in enumerate(z))


def shared(phi):
    return "shared |p " + " ".join(f"f{k}:{v:.4f}" for k, v in enumerate(phi) if v)


def distribution(vw, z, phi):
    """(n_pool,): probability of each candidate."""
    return np.array(vw.predict([shared(phi), *map(action, z)]))


def learn(vw, z, phi, cost, propensity):
    """One example for each place of a slate: what was shown there, against all that was shown."""
    lines = list(map(action, z))
    for place in range(len(z)):
        label = f"0:{cost[place]:.4f}:{max(propensity[place], 0.01):.6f} "
        told = [label + line if at == place else line for at, line in enumerate(lines)]
        vw.learn([shared(phi), *told])


def main():
    vw = vowpalwabbit.Workspace(" ".join(sys.argv[1:]) + " --cb_type mtr -q zp --quiet")
    while (asked := receive(sys.stdin.buffer)) is not None:
        if "cost" in asked:
            for row in zip(*(asked[n] for n in ("z", "phi", "cost", "propensity")), strict=True):
                learn(vw, *row)
            continue
        rows = zip(asked["z"], asked["phi"], strict=True)
        send(sys.stdout.buffer, p=np.array([distribution(vw, z, phi) for z, phi in rows]))


if __name__ == "__main__":
    main()
