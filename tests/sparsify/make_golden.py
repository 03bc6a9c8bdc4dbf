#!/usr/bin/env python3
"""Pruning as published, in float64: writes golden/sparsify.json.

Written from the papers: magnitude; Wanda (Sun et al. 2023, arXiv 2306.11695) with its variant by cumulative scores;
SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774) one column at a time, with thresholds, dead columns and damping
as their programs have them. Needs NumPy alone. Run it again after a change: python3 tests/sparsify/make_golden.py
"""
import json
import pathlib

import numpy as np

ROWS, COLS, TOKENS, BLOCK = 16, 48, 200, 16


def make_inputs(random):
    """Correlated channels of unequal size, [TOKENS, COLS]."""
    mix = random.normal(size=(COLS, COLS)) / np.sqrt(COLS)
    return (random.normal(size=(TOKENS, COLS)) @ (np.eye(COLS) * 0.7 + mix)) * np.exp(0.7 * random.normal(size=COLS))


def n_of_m(scores, removed, of):
    """True where removed: the smallest `removed` of each `of` neighbours in a row."""
    mask = np.zeros(scores.shape, bool)
    for first in range(0, scores.shape[1], of):
        part = np.argsort(scores[:, first : first + of], axis=1, kind="stable")[:, :removed]
        np.put_along_axis(mask, first + part, True, axis=1)
    return mask


def magnitude_threshold(weight, sparsity):
    """The program's rule: everything up to the int(count * sparsity)-th from 0."""
    scores = np.abs(weight)
    return scores <= np.sort(scores.ravel())[int(scores.size * sparsity)]


def wanda(weight, square, sparsity):
    scores = np.abs(weight) * np.sqrt(square)
    order = np.argsort(scores, axis=1, kind="stable")[:, : int(COLS * sparsity)]
    mask = np.zeros(scores.shape, bool)
    np.put_along_axis(mask, order, True, axis=1)
    return mask


def wanda_cumulative(weight, square, sparsity):
    """Bisection on alpha, the share of each row's sum that may be removed, from 0.4 in [0, 0.8]."""
    scores = np.abs(weight) * np.sqrt(square)
    ordered = np.sort(scores, axis=1)
    sums = np.cumsum(ordered, axis=1)

    def removed_with(alpha):
        counts = (sums <= sums[:, -1:] * alpha).sum(axis=1)
        limits = np.array([ordered[r, n - 1] if n > 0 else -1 for r, n in enumerate(counts)])
        return scores <= limits[:, None]

    low, high, alpha = 0.0, 0.8, 0.4
    mask = removed_with(alpha)
    while abs(mask.mean() - sparsity) > 0.001 and high - low >= 0.001:
        if mask.mean() > sparsity:
            high, alpha = alpha, (alpha + low) / 2
        else:
            low, alpha = alpha, (alpha + high) / 2
        mask = removed_with(alpha)
    return mask


def sparsegpt(weight, gram, sparsity, removed, of, damping=0.01):
    weight, gram = weight.astype(np.float64).copy(), gram.astype(np.float64).copy()
    dead = np.diag(gram) == 0
    # The program sets dead diagonals to 1 before it takes the mean; this library takes the mean of the others.
    mean = np.diag(gram)[~dead].mean()
    gram[dead, dead] = mean
    weight[:, dead] = 0
    gram += damping * mean * np.eye(COLS)
    upper = np.linalg.cholesky(np.linalg.inv(gram)).T
    gone = np.zeros(weight.shape, bool)
    for first in range(0, COLS, BLOCK):
        end = min(COLS, first + BLOCK)
        block = weight[:, first:end].copy()
        errors = np.zeros(block.shape)
        diagonal = np.diag(upper)[first:end]
        if of == 0:
            scores = block**2 / diagonal**2
            mask = scores <= np.sort(scores.ravel())[int(scores.size * sparsity)]
        else:
            mask = np.zeros(block.shape, bool)
        for k in range(end - first):
            if of and k % of == 0:
                scores = block[:, k : k + of] ** 2 / diagonal[k : k + of] ** 2
                part = np.argsort(scores, axis=1, kind="stable")[:, :removed]
                np.put_along_axis(mask, k + part, True, axis=1)
            kept = np.where(mask[:, k], 0, block[:, k])
            errors[:, k] = (block[:, k] - kept) / diagonal[k]
            block[:, k:] -= np.outer(errors[:, k], upper[first + k, first + k : end])
            block[:, k] = kept
        weight[:, first:end] = block
        weight[:, end:] -= errors @ upper[first:end, end:]
        gone[:, first:end] = mask
    gone[:, dead] = True
    return weight, gone


def bits(mask):
    return ["".join("0" if removed else "1" for removed in row) for row in mask]


def numbers(values):
    return [float(f"{v:.9g}") for v in np.asarray(values, np.float64).ravel()]


def main():
    random = np.random.default_rng(7)
    weight = random.standard_t(5, size=(ROWS, COLS)).astype(np.float32)
    x = make_inputs(random)
    dead_x = x.copy()
    dead_x[:, [3, 17, 40]] = 0
    grams = {"alive": (x.T @ x / TOKENS).astype(np.float32), "dead": (dead_x.T @ dead_x / TOKENS).astype(np.float32)}
    square = np.diag(grams["alive"]).astype(np.float64)
    double = weight.astype(np.float64)
    cases = []
    for sparsity in (0.3, 0.5, 0.71):
        cases.append({"method": "magnitude", "sparsity": sparsity, "kept": bits(magnitude_threshold(double, sparsity))})
        cases.append({"method": "wanda", "sparsity": sparsity, "kept": bits(wanda(double, square, sparsity))})
        mask = wanda_cumulative(double, square, sparsity)
        cases.append({"method": "wanda_cumulative", "sparsity": sparsity, "kept": bits(mask)})
    for removed, of in ((2, 4), (4, 8), (1, 4)):
        pattern = f"{of - removed}:{of}"
        cases.append({"method": "magnitude", "pattern": pattern, "kept": bits(n_of_m(np.abs(double), removed, of))})
        scores = np.abs(double) * np.sqrt(square)
        cases.append({"method": "wanda", "pattern": pattern, "kept": bits(n_of_m(scores, removed, of))})
    for gram, sparsity, removed, of in (
        ("alive", 0.5, 0, 0), ("alive", 0.71, 0, 0), ("dead", 0.5, 0, 0), ("alive", 0.5, 2, 4), ("alive", 0.25, 1, 4),
    ):
        values, mask = sparsegpt(weight, grams[gram], sparsity, removed, of)
        case = {"method": "sparsegpt", "gram": gram, "kept": bits(mask), "values": numbers(values)}
        case.update({"pattern": f"{of - removed}:{of}"} if of else {"sparsity": sparsity})
        cases.append(case)
    golden = {"rows": ROWS, "cols": COLS, "tokens": TOKENS, "block_size": BLOCK, "weight": numbers(weight),
              "alive": numbers(grams["alive"]), "dead": numbers(grams["dead"]), "cases": cases}
    path = pathlib.Path(__file__).parent / "golden" / "sparsify.json"
    path.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
