// 8-bit linears of bitsandbytes: Linear8bitLt, the weights of LLM.int8().
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quant/layout.h"

namespace quant::bitsandbytes {

/// True for weights that are 8-bit integers, which go to the tensors of this file.
bool is_int8(const QuantArgs& weights);

std::optional<std::string> why_int8_unsupported(const Scheme& scheme, const LinearShape& linear);
std::vector<StoredTensor> int8_tensors(const LinearShape& linear);
void write_int8_rows(const LinearShape& linear, std::uint64_t first_row, const QuantizedTensor& slice,
                     StoredBytesSink& sink);

/// The linears of a checkpoint that have a tensor ".SCB". `threshold`: config.json's llm_int8_threshold.
std::vector<StoredLinear> find_int8_linears(const Checkpoint& checkpoint, double threshold);
void read_int8_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row,
                    std::uint64_t count, QuantizedTensor& out);

}  // namespace quant::bitsandbytes
