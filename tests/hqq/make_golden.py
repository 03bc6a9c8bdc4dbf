#!/usr/bin/env python3
"""Makes golden/hqq.json: half-quadratic quantization in float64 after the equations of Badri and Shaji 2023, of float32
weights in groups. Per group: scale, zero point and the sum of |error|^p of the best iterate. Needs numpy."""
import json
import pathlib

import numpy as np


def objective(w, s, z, low, high, p):
    q = np.clip(np.rint(w / s + z), low, high)
    return (np.abs(w - (q - z) * s) ** p).sum()


def shrink(e, beta, p):
    size = np.abs(e)
    kept = np.maximum(size - np.where(size > 0, size, 1.0) ** (p - 1) / beta, 0)
    return np.where(size > 0, np.sign(e) * kept, 0.0)


def hqq(w, bits, steps, whole, p=0.7, beta=10.0, kappa=1.01, iters=20):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    stored = (lambda z: float(np.clip(np.rint(z), low, high))) if whole else (lambda z: float(np.float32(z)))
    candidates = []
    least, most = min(w.min(), 0.0), max(w.max(), 0.0)  # round to nearest
    s = float(np.float32((np.float32(most) - np.float32(least)) / np.float32(high - low)))
    candidates.append((s, float(np.clip(np.rint(low - least / s), low, high))))
    s = float(np.float32((np.float32(w.max()) - np.float32(w.min())) / np.float32(high - low)))
    z = low - w.min() / s
    candidates.append((s, stored(z)))
    for _ in range(iters):
        q = np.clip(np.rint(w / s + z), low, high)
        e = w - (q - z) * s
        kept = shrink(e / s, beta, p) * s if steps else shrink(e, beta, p)
        z = np.mean(q - (w - kept) / s)
        candidates.append((s, stored(z)))
        beta *= kappa
    errors = [objective(w, s, z, low, high, p) for s, z in candidates]
    best = int(np.argmin(errors))
    return candidates[best] + (errors[best], errors[0])


random = np.random.default_rng(11)
cases = []
for bits, group, steps, whole, options in [
    (1, 32, True, False, {}), (2, 16, True, False, {}), (2, 64, False, False, {}), (3, 64, True, False, {}),
    (3, 64, True, True, {}), (4, 64, True, False, {}), (4, 64, False, False, {"beta": 1e4, "kappa": 1.05}),
    (4, 64, True, True, {}), (8, 128, True, False, {}), (2, 64, True, False, {"iters": 1}),
    (3, 32, True, False, {"iters": 1, "p": 0.5}), (3, 32, True, False, {"iters": 2, "p": 1.0, "beta": 5.0}),
]:
    w = (np.rint(random.standard_t(4, (12, group)) * 0.02 * 65536) / 65536).astype(np.float32)
    w[0] += np.float32(0.125)  # all of one sign
    groups = [hqq(row.astype(np.float64), bits, steps, whole, **options) for row in w]
    cases.append({"bits": bits, "group": group, "steps": steps, "whole": whole, "options": options,
                  "weights_times_65536": [int(v) for v in np.rint(w.ravel() * 65536)], "scales": [g[0] for g in groups], "zeros": [g[1] for g in groups],
                  "errors": [g[2] for g in groups], "plain": [g[3] for g in groups]})
path = pathlib.Path(__file__).parent / "golden" / "hqq.json"
path.parent.mkdir(exist_ok=True)
path.write_text(json.dumps(cases) + "\n")
