#!/usr/bin/env bash
# Builds block_encoders and compare_logits, outside the default build. See README.md.
# usage: build.sh LLAMA_CPP_SOURCE LLAMA_CPP_BUILD QUANT_BUILD OUT_DIR
set -euo pipefail
llama=$1 llama_build=$2 quant_build=$3 out=$4
root=$(cd "$(dirname "$0")/../../.." && pwd)
mkdir -p "$out"
libraries=("$quant_build"/algorithms/libquant_algorithms.a "$quant_build"/formats/libquant_formats.a "$quant_build"/libquant/libquant_core.a)
flags=(-std=c++20 -O2 -I"$root/libquant/include" -I"$root/formats/include")
depends=(-lfmt -ldnnl -lgomp -ldl -lutf8proc -lxxhash $(pkg-config --libs hdf5 libpcre2-8))
g++ "${flags[@]}" "$root/tests/bench/gguf/block_encoders.cpp" "${libraries[@]}" "${depends[@]}" -o "$out/block_encoders"
g++ "${flags[@]}" -I"$llama/include" -I"$llama/ggml/include" "$root/tests/bench/gguf/compare_logits.cpp" \
  "${libraries[@]}" "${depends[@]}" -L"$llama_build/bin" -lllama -lggml -lggml-base -Wl,-rpath,"$llama_build/bin" \
  -o "$out/compare_logits"
