#!/usr/bin/env bash
# Times `quant run` against `cp` of the same page-cached checkpoint, in turn in one run; prints every time, the medians and
# their ratio. Not run by CTest: times are for people.
#   tests/bench/against_cp.sh QUANT MODEL_DIR SCRATCH_DIR [RECIPE ...]
set -euo pipefail
quant=$1 model=$2 scratch=$3
shift 3
[ $# -gt 0 ] || set -- w4a16
rounds=${ROUNDS:-7}
copy=$scratch/bench-cp output=$scratch/bench-quant
mkdir -p "$scratch"

seconds() {
  local start end
  start=$(date +%s%N)
  "$@" >/dev/null
  end=$(date +%s%N)
  awk -v ns=$((end - start)) 'BEGIN { printf "%.3f\n", ns / 1e9 }'
}
median() { sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

cat "$model"/*.safetensors >/dev/null  # into the page cache
for recipe in "$@"; do
  copies=() runs=()
  for ((i = 0; i < rounds; ++i)); do
    rm -rf "$copy" "$output" "$output.partial"
    sync
    copies+=("$(seconds cp -r "$model" "$copy")")
    rm -rf "$copy"
    sync
    runs+=("$(seconds "$quant" run "$recipe" --model "$model" --output "$output" --quiet)")
  done
  c=$(printf '%s\n' "${copies[@]}" | median)
  r=$(printf '%s\n' "${runs[@]}" | median)
  echo "$recipe: cp ${copies[*]} (median $c s), quant ${runs[*]} (median $r s), ratio $(awk -v a="$r" -v b="$c" 'BEGIN { printf "%.2f", a / b }')"
done
rm -rf "$copy" "$output"
