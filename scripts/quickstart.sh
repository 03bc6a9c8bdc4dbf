#!/usr/bin/env bash
# Installs what is needed, builds the program `quant`, and compresses the example model to 4 bits.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install-packages.sh
cmake --preset release
cmake --build --preset release --target quant

output=out/tiny-llama-w4a16
rm -rf "$output" "$output.partial"  # of an earlier call of this script
mkdir -p out
build/release/bin/quant run recipes/w4a16.yaml --model examples/tiny-llama-novels --output "$output"

report=$PWD/$output/report.html
echo
echo "Compressed model:  $PWD/$output"
echo "Report:            file://$report"
if [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] && command -v xdg-open >/dev/null; then
  xdg-open "$report" >/dev/null 2>&1 &
fi
