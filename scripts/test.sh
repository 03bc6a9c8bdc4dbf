#!/usr/bin/env bash
# Builds everything and runs all tests. Argument: a preset of CMakePresets.json (default: release).
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}

scripts/install-packages.sh
cmake --preset "$preset"
cmake --build --preset "$preset"
ctest --preset "$preset" --parallel "$(nproc)" --no-label-summary
