#!/usr/bin/env bash
# Runs all ```bash blocks of a page, one after the other in one shell, in a temporary folder that has examples/.
#   run_blocks.sh PAGE QUANT
set -euo pipefail
page=$(realpath "$1")
program=$(realpath "$2")
source_dir=$(realpath "$(dirname "$0")/../..")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ln -s "$source_dir/examples" "$work/examples"
mkdir "$work/bin"
ln -s "$program" "$work/bin/quant"
cd "$work"

awk '/^```bash$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$page" >script
count=$(grep -c '^```bash$' "$page") || { echo "$page has no block to run" >&2; exit 1; }
export OMP_WAIT_POLICY=passive
if ! PATH="$work/bin:$PATH" bash -euxo pipefail script >log 2>&1; then
  tail -n 40 log
  echo "FAILED: a block of $page" >&2
  exit 1
fi
echo "ran $count blocks of $page in $SECONDS s"
