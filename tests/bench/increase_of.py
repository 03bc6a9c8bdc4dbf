#!/usr/bin/env python3
"""Reads the JSON of `quant eval --base`; prints the increase in perplexity as a cell of a table: "+0.520 ± 0.021"."""

import json
import sys

increase = json.load(sys.stdin)["perplexity"]["increase"]
error = increase["standard_error"]
print(f"{increase['mean']:+.3f}" + ("" if error is None else f" ± {error:.3f}"))
