#!/usr/bin/env bash
# Makes the table of docs/quality.md: the increase in perplexity of each method at each scheme, measured from the packed
# weights. Methods and schemes that this version cannot run are shown as "-". Not run by CTest: it takes minutes.
#   tests/bench/quality_table.sh QUANT MODEL_DIR CALIBRATION EVALUATION SCRATCH_DIR [METHOD ...]
# Methods: rtn gptq awq awq-gptq; awq-clip, best and awq-best (clipping; the options of the ready GPTQ recipes); or a recipe file with the variable "weights" (the arguments of the weights, in braces).
# WINDOWS, SEQ_LEN: evaluation (160, 256). SAMPLES: calibration sequences of SEQ_LEN tokens (128).
set -euo pipefail
quant=$1 model=$2 calibration=$3 evaluation=$4 scratch=$5
shift 5
[ $# -gt 0 ] || set -- rtn gptq awq awq-gptq
here=$(cd "$(dirname "$0")" && pwd)
windows=${WINDOWS:-160} length=${SEQ_LEN:-256} samples=${SAMPLES:-128}
mkdir -p "$scratch"

int() { echo "num_bits: $1, type: int, symmetric: $2, strategy: $3${4:+, group_size: $4}"; }
names=("8-bit per channel" "4-bit per channel" "4-bit group 128" "4-bit group 128 symmetric" "4-bit group 32 symmetric"
  "3-bit per channel" "3-bit group 128" "2-bit group 32")
schemes=("$(int 8 false channel)" "$(int 4 false channel)" "$(int 4 false group 128)" "$(int 4 true group 128)"
  "$(int 4 true group 32)" "$(int 3 false channel)" "$(int 3 false group 128)" "$(int 2 false group 32)")

modifier() {  # NAME WEIGHTS [MORE LINES]
  printf '    %s:\n      ignore: [lm_head]\n%s      config_groups:\n        group_0:\n          targets: [Linear]\n          weights: {%s}\n' \
    "$1" "${3:-}" "$2"
}
best=$'      scale_search: solve\n      refine_rounds: 2\n      asymmetric: 0.75\n      residual: 0.75\n'
both=$'      duo_scaling: both\n'

recipe() {  # METHOD WEIGHTS
  printf 'quant_stage:\n  quant_modifiers:\n'
  case $1 in
    rtn) modifier QuantizationModifier "$2" ;;
    gptq) modifier GPTQModifier "$2" ;;
    awq) modifier AWQModifier "$2" ;;
    awq-gptq) modifier AWQModifier "$2"; modifier GPTQModifier "$2" ;;
    awq-clip) modifier AWQModifier "$2" "$both"$'      clip: true\n' ;;
    best) modifier GPTQModifier "$2" "$best" ;;
    awq-best) modifier AWQModifier "$2" "$both"; modifier GPTQModifier "$2" "$best" ;;
  esac
}

# The increase over the base, or "-" where the recipe cannot be run; messages go to the log.
cell() {  # METHOD WEIGHTS
  local output=$scratch/model file=$scratch/recipe.yaml arguments=()
  rm -rf "$output" "$output.partial"
  if [ -f "$1" ]; then
    file=$1 arguments+=(--set "weights={$2}" --calibration "$calibration" --samples "$samples" --seq-len "$length")
  else
    recipe "$1" "$2" >"$file"
    [ "$1" = rtn ] || arguments+=(--calibration "$calibration" --samples "$samples" --seq-len "$length")
  fi
  if ! "$quant" run "$file" --model "$model" --output "$output" --quiet "${arguments[@]}" >>"$scratch/log" 2>&1; then
    echo -
    return
  fi
  "$quant" eval "$output" --base "$model" --text "$evaluation" --seq-len "$length" --windows "$windows" --json |
    tee -a "$scratch/log" | "$here/increase_of.py"
}

: >"$scratch/log"
header="| scheme |" rule="|---|"
for method in "$@"; do
  header+=" $(basename "$method" .yaml) |" rule+="---|"
done
printf '%s\n%s\n' "$header" "$rule"
for i in "${!names[@]}"; do
  row="| ${names[i]} |"
  for method in "$@"; do
    row+=" $(cell "$method" "${schemes[i]}") |"
  done
  echo "$row"
done
