// What all rows of a tensor share.
#pragma once

#include <span>

#include "observer.h"
#include "quant/algorithm.h"

namespace quant::rtn {

/// Scale and zero point of Strategy::tensor, global scale of NVFP4; nothing for other arguments. See
/// Quantizer::prepare.
TensorParams tensor_params(const TensorView& weight, const QuantArgs& args, std::span<const float> importance,
                           int threads);

/// The type that scales of a weight of this type are stored in, if the caller does not say: args.scale_dtype, else the
/// weight's own if that is F16 or BF16, else F32.
DType default_scale_dtype(const QuantArgs& args, DType weight);

/// Throws Error{numerical} that names the first NaN or infinite weight of `weight`, whose rows are numbered from
/// `first_row`.
[[noreturn]] void reject_non_finite(const TensorView& weight, std::uint64_t first_row);

/// Throws Error{usage} unless `importance` is empty or has `cols` finite values >= 0.
void check_importance(std::span<const float> importance, std::uint64_t cols);

/// Throws Error{unsupported} unless the elements of `weight` are real numbers that read_f32 reads.
void check_weight(const TensorView& weight);

/// How many of `threads` threads are worth starting for `count` weights; at least 1.
int useful_threads(int threads, std::uint64_t count);

/// values[rank] for the wanted quantile of `count` sorted values, by nearest rank: ceil(q count) - 1.
std::uint64_t quantile_rank(double quantile, std::uint64_t count);

}  // namespace quant::rtn
