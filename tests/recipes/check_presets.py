#!/usr/bin/env python3
"""Prints the preset schemes of the installed compressed-tensors package as JSON, sorted by name.

tests/recipes/presets.json is what it prints for compressed-tensors 0.20:

    pip install compressed-tensors==0.20.0
    python3 tests/recipes/check_presets.py > tests/recipes/presets.json

`python3 tests/recipes/check_presets.py --compare` tells what the installed version has changed since.
"""
import json
import pathlib
import sys

from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES

FIELDS = ["num_bits", "type", "symmetric", "strategy", "group_size", "block_structure", "dynamic", "actorder",
          "scale_dtype", "zp_dtype", "observer", "observer_kwargs"]


def plain(value):
    if value is None or isinstance(value, (bool, int, float, str, list, dict)):
        return getattr(value, "value", value)
    return str(value).removeprefix("torch.")


def presets():
    return {
        name: {part: {field: plain(getattr(args, field)) for field in FIELDS} for part, args in scheme.items()}
        for name, scheme in sorted(PRESET_SCHEMES.items())
    }


def dumped(schemes):
    """One line per part: small, and a change shows as one line."""
    lines = []
    for name, scheme in schemes.items():
        parts = ",\n".join(f"    {json.dumps(part)}: {json.dumps(args)}" for part, args in scheme.items())
        lines.append(f"  {json.dumps(name)}: {{\n{parts}\n  }}" if parts else f"  {json.dumps(name)}: {{}}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main():
    if sys.argv[1:] != ["--compare"]:
        sys.stdout.write(dumped(presets()))
        return 0
    stored = json.loads(pathlib.Path(__file__).with_name("presets.json").read_text())
    now = json.loads(dumped(presets()))
    changed = sorted(name for name in stored.keys() | now.keys() if stored.get(name) != now.get(name))
    print("changed: " + ", ".join(changed) if changed else "no preset has changed")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
