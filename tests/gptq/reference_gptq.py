#!/usr/bin/env python3
"""GPTQ as published, one column at a time in float64: writes golden/gptq.json.

Written from the paper (Frantar et al. 2022, algorithm 1) and the description of act-order, static groups and
group-aware order; needs NumPy alone. Scales are float32, by the rule of compressed-tensors, so that they are the same
numbers as the library's. Run it again after a change: python3 tests/gptq/reference_gptq.py
"""
import json
import pathlib

import numpy as np

ROWS, COLS, TOKENS = 12, 64, 400


def inputs(random):
    """Correlated channels of unequal size, [TOKENS, COLS]."""
    mix = random.normal(size=(COLS, COLS)) / np.sqrt(COLS)
    return (random.normal(size=(TOKENS, COLS)) @ (np.eye(COLS) * 0.7 + mix)) * np.exp(0.7 * random.normal(size=COLS))


def scale_and_zero(values, bits, symmetric):
    f = np.float32
    low, high = min(f(0), values.min()), max(f(0), values.max())
    lowest = -(2 ** (bits - 1))
    if symmetric:
        return f(max(-low, high)) / (f(2**bits - 1) / f(2)), 0
    scale = (high - low) / f(2**bits - 1)
    return scale, int(np.rint(np.clip(f(lowest) - low / scale, lowest, -lowest - 1)))


def order_of(kind, diagonal, group):
    if kind == "none":
        return list(range(COLS))
    falling = sorted(range(COLS), key=lambda c: -diagonal[c])
    if kind in ("static", "group"):
        return falling
    groups = [sorted(range(g, g + group), key=lambda c: -diagonal[c]) for g in range(0, COLS, group)]
    return [c for members in sorted(groups, key=lambda m: -diagonal[m[0]]) for c in members]


def gptq(weight, gram, bits, symmetric, group, kind, static_groups, damping):
    gram = gram.astype(np.float64)
    order = order_of(kind, np.diag(gram), group)
    own = kind == "group"
    group_of = [(position if own else column) // group for position, column in enumerate(order)]
    damped = gram + damping * np.mean(np.diag(gram)) * np.eye(COLS)
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    upper = np.linalg.cholesky(inverse).T  # inverse = upper^T upper
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    codes = np.zeros((ROWS, COLS), int)
    scales = np.zeros((ROWS, COLS // group), np.float32)
    zeros = np.zeros((ROWS, COLS // group), int)
    for r in range(ROWS):
        members = {g: [order[p] for p in range(COLS) if group_of[p] == g] for g in set(group_of)}
        for g, columns in members.items():
            scales[r, g], zeros[r, g] = scale_and_zero(weight[r, columns], bits, symmetric)
        row = weight[r, order].astype(np.float64)
        entered = set()
        for p in range(COLS):
            g = group_of[p]
            if not static_groups and g not in entered:
                entered.add(g)
                now = row[[q for q in range(COLS) if group_of[q] == g]].astype(np.float32)
                scales[r, g], zeros[r, g] = scale_and_zero(now, bits, symmetric)
            scale = float(scales[r, g])
            code = np.rint(np.clip(row[p] / scale + zeros[r, g], low, high))
            error = (row[p] - (code - zeros[r, g]) * scale) / upper[p, p]
            row[p:] -= error * upper[p, p:]
            codes[r, order[p]] = code
    values = np.zeros((ROWS, COLS))
    for p, column in enumerate(order):
        g = group_of[p]
        values[:, column] = (codes[:, column] - zeros[:, g]) * scales[:, g].astype(np.float64)
    difference = weight.astype(np.float64) - values
    return {"codes": codes.ravel().tolist(), "scales": [float(s) for s in scales.ravel()],
            "zero_points": zeros.ravel().tolist(), "error": float(np.sum((difference @ gram) * difference))}


def main():
    random = np.random.default_rng(11)
    x = inputs(random)
    weight = (0.05 * random.normal(size=(ROWS, COLS))).astype(np.float32)
    gram = (x.T @ x / TOKENS).astype(np.float32)
    cases = []
    for bits, symmetric, group, kind, static_groups, damping in [
            (4, False, COLS, "none", True, 0.01), (4, True, COLS, "static", True, 0.01),
            (3, False, COLS, "static", True, 0.05), (8, True, COLS, "static", True, 0.01),
            (4, False, 16, "none", True, 0.01), (4, False, 16, "none", False, 0.01),
            (3, True, 16, "static", True, 0.01), (4, True, 16, "group", True, 0.01),
            (3, False, 16, "group", False, 0.01), (2, False, 16, "group_aware", True, 0.1),
            (3, False, 32, "group_aware", False, 0.01)]:
        cases.append({"bits": bits, "symmetric": symmetric, "group": 0 if group == COLS else group, "order": kind,
                      "static_groups": static_groups, "damping": damping,
                      **gptq(weight, gram, bits, symmetric, group, kind, static_groups, damping)})
    data = {"rows": ROWS, "cols": COLS, "tokens": TOKENS, "weight": [float(w) for w in weight.ravel()],
            "gram": [float(h) for h in gram.ravel()], "cases": cases}
    path = pathlib.Path(__file__).parent / "golden" / "gptq.json"
    path.write_text(json.dumps(data, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
