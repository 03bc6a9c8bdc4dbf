// Operations that treat each row, or each element, alone. Matrices are row-major and dense; `out` may be an input where
// it says so. Same bits for any number of threads.
#pragma once

#include <cstdint>
#include <span>

#include "quant/model_program.h"

namespace quant::forward {

using Floats = std::span<float>;
using ConstFloats = std::span<const float>;

/// `weight` and `bias`: of a group or of the whole row, or empty. out may be in.
void normalize(const NormOp& op, ConstFloats weight, ConstFloats bias, ConstFloats in, std::uint64_t width, Floats out,
               int threads);
/// out may be in.
void activate(Activation function, ConstFloats in, Floats out, int threads);
/// b may have one value per row of a; out may be a, or b where that is as large.
void multiply(ConstFloats a, ConstFloats b, std::uint64_t width, Floats out, int threads);
void add(ConstFloats a, ConstFloats b, Floats out, int threads);
void scale(float factor, ConstFloats in, Floats out, int threads);
void softcap(float cap, ConstFloats in, Floats out, int threads);
/// Adds `bias` [width] to every row of x.
void add_bias(ConstFloats bias, Floats x, int threads);
/// out is another matrix than in.
void slice(const SliceOp& op, ConstFloats in, std::uint64_t in_width, Floats out, int threads);

}  // namespace quant::forward
