"""Writes awq.json: AWQ's scale search by NumPy, from the published formulas and llm-compressor's grid.

Needs NumPy only. Independent of the program: weights, Gram matrix and mean magnitudes are inputs that both read.
    python3 make_awq.py > awq.json
"""
import json

import numpy as np

F = np.float32


def round_weights(w, bits, group, symmetric):
    """compressed-tensors' fake quantization in float32; `group` columns share a scale."""
    rows, cols = w.shape
    low, high = F(-(2 ** (bits - 1))), F(2 ** (bits - 1) - 1)
    g = w.reshape(rows, cols // group, group)
    minimum = np.minimum(g.min(-1, keepdims=True), F(0))
    maximum = np.maximum(g.max(-1, keepdims=True), F(0))
    if symmetric:
        scale = np.maximum(-minimum, maximum) / F((high - low) / 2)
        zero = np.zeros_like(scale)
    else:
        scale = (maximum - minimum) / F(high - low)
        zero = np.rint(np.clip(low - minimum / scale, low, high)).astype(F)
    codes = np.rint(np.clip(g / scale + zero, low, high))
    return ((codes - zero) * scale).reshape(rows, cols)


def points(duo, n):
    if duo == "yes":
        return [None] + [(i / (n - 2), True) for i in range(n - 1)]
    if duo == "no":
        return [None] + [(i / (n - 1), False) for i in range(1, n)]
    half = n // 2
    out = [None]
    for i in range(half):
        out += [(i / (half - 1), False)] if i else []
        out += [(i / (half - 1), True)]
    return out


def factors(x_mean, w_mean, point):
    ratio, duo = point
    s = x_mean**ratio / (w_mean ** (1 - ratio) + 1e-4) if duo else x_mean**ratio
    s = np.maximum(s, 1e-4)
    return (s / np.sqrt(s.max() * s.min())).astype(F)


def search(weights, gram, x_mean, bits, group, symmetric, duo, n):
    normalized = [
        np.abs(w.reshape(-1, group)).astype(np.float64)
        / (np.abs(w.reshape(-1, group)).max(-1, keepdims=True).astype(np.float64) + 1e-6)
        for w in weights
    ]
    w_mean = np.concatenate([m.reshape(-1, gram.shape[0]) for m in normalized]).mean(0)
    losses, tried = [], []
    for point in points(duo, n):
        s = np.ones(gram.shape[0], F) if point is None else factors(x_mean.astype(np.float64), w_mean, point)
        loss = 0.0
        for w in weights:
            d = (round_weights(w * s, bits, group, symmetric) / s).astype(np.float64) - w
            loss += float(np.einsum("ri,ij,rj->", d, gram.astype(np.float64), d))
        losses.append(loss)
        tried.append([float(v) for v in s])
    best = int(np.argmin(losses))
    return {"losses": losses, "best": best, "factors": tried[best]}


def main():
    rng = np.random.default_rng(7)
    cols, tokens = 48, 200
    x = rng.normal(size=(tokens, cols)) * np.exp(rng.normal(size=cols))
    x[:, 5] *= 20
    x = x.astype(F)
    weights = [(0.05 * rng.normal(size=(rows, cols))).astype(F) for rows in (10, 6)]
    gram = (x.astype(np.float64).T @ x.astype(np.float64) / tokens).astype(F)
    x_mean = np.abs(x.astype(np.float64)).mean(0).astype(F)
    cases = []
    for bits, group, symmetric, duo, n in [
        (4, 16, True, "yes", 20), (4, 16, False, "both", 20), (3, 48, False, "no", 20), (2, 16, True, "yes", 5)]:
        found = search(weights, gram, x_mean, bits, group, symmetric, duo, n)
        cases.append({"bits": bits, "group": group, "symmetric": symmetric, "duo": duo, "n_grid": n, **found})
    print(json.dumps({
        "cols": cols, "weights": [[float(v) for v in w.ravel()] for w in weights],
        "gram": [float(v) for v in gram.ravel()], "mean_abs": [float(v) for v in x_mean], "cases": cases}))


main()
