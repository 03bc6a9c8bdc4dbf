#!/usr/bin/env python3
"""Makes golden/kmeans.json: rows, weights, and the weighted error that scikit-learn's KMeans reaches with SqueezeLLM's
settings (k-means++, 50 iterations) and ten starts. Needs numpy and scikit-learn."""
import json
import pathlib

import numpy as np
from sklearn.cluster import KMeans

random = np.random.default_rng(7)
cases = []
for bits, count, kind in [(3, 256, "normal"), (4, 256, "normal"), (3, 200, "student"), (2, 64, "uniform"), (4, 300, "student")]:
    values = {"normal": random.normal(0, 0.02, count), "student": random.standard_t(3, count) * 0.02,
              "uniform": random.uniform(-1, 1, count)}[kind].astype(np.float32)
    weights = np.exp(random.normal(0, 1.5, count)).astype(np.float32)
    fit = KMeans(2**bits, n_init=10, max_iter=50, random_state=0).fit(values.astype(np.float64)[:, None], sample_weight=weights)
    cases.append({"bits": bits, "values": values.tolist(), "weights": weights.tolist(), "error": float(fit.inertia_)})
path = pathlib.Path(__file__).parent / "golden" / "kmeans.json"
path.parent.mkdir(exist_ok=True)
path.write_text(json.dumps(cases) + "\n")
