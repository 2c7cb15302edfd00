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


def draw(vw, z, phi, may, luck):
    """Places drawn one after the other from what is left, each with its probability; -1: none."""
    examples = vw.parse([shared(phi), *map(action, z)])
    left = np.flatnonzero(may).tolist()
    places, propensity = np.full(len(luck), -1), np.ones(len(luck))
    for place in range(min(len(luck), len(left))):
        p = np.array(vw.predict([examples[0], *(examples[1 + at] for at in left)]))
        p /= p.sum()
        at = min(int(np.searchsorted(np.cumsum(p), luck[place])), len(left) - 1)
        places[place], propensity[place] = left.pop(at), p[at]
    vw.finish_example(examples)
    return places, propensity


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
            told = (asked[n] for n in ("z", "phi", "cost", "propensity", "open"))
            for z, phi, cost, propensity, shown in zip(*told, strict=True):
                learn(vw, z[shown], phi, cost[shown], propensity[: len(cost)][shown])
            continue
        rows = zip(*(asked[n] for n in ("z", "phi", "open", "luck")), strict=True)
        drawn = [draw(vw, *row) for row in rows]
        places, propensity = (np.stack(part) for part in zip(*drawn, strict=True))
        send(sys.stdout.buffer, places=places, propensity=propensity)


if __name__ == "__main__":
    main()
