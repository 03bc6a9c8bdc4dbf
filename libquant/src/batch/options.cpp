// What jobs may say: the options of `quant run` and `quant convert` that make sense unattended.
#include "quant/batch.h"

namespace quant {

const std::vector<BatchOption>& batch_run_options() {
  static const std::vector<BatchOption> options = {
      {"layout", BatchValue::text, true},
      {"shard_size", BatchValue::size, true},
      {"memory", BatchValue::size, false},
      {"threads", BatchValue::count, false},
      {"strict", BatchValue::flag, false},
      {"sensitivities", BatchValue::path, true},
      {"calibration", BatchValue::path, true},
      {"statistics", BatchValue::path, true},
      {"samples", BatchValue::count, true},
      {"seq_len", BatchValue::count, true},
      {"shuffle", BatchValue::flag, true},
      {"seed", BatchValue::count, true},
      {"no_pack", BatchValue::flag, true},
      {"no_special", BatchValue::flag, true},
      {"chat_template", BatchValue::path, true},
      {"all_experts", BatchValue::flag, true},
      {"unquantized_inputs", BatchValue::flag, true},
      {"product", BatchValue::text, true},
      {"activation_memory", BatchValue::size, false},
      {"block_errors", BatchValue::flag, true},
      {"eval", BatchValue::path, true},
      {"eval_seq_len", BatchValue::count, true},
      {"eval_windows", BatchValue::count, true},
      {"eval_bos", BatchValue::flag, true},
      {"target_bits", BatchValue::number, true},
      {"target_size", BatchValue::size, true},
      {"sensitivity", BatchValue::path, true},
      {"schemes", BatchValue::text, true},
      {"measure", BatchValue::text, true},
      {"independent", BatchValue::flag, true},
      {"sensitivity_samples", BatchValue::count, true},
  };
  return options;
}

const std::vector<BatchOption>& batch_convert_options() {
  static const std::vector<BatchOption> options = {
      {"type", BatchValue::text, true},         {"embedding_type", BatchValue::text, true},
      {"head_type", BatchValue::text, true},    {"encoder", BatchValue::text, true},
      {"importance", BatchValue::path, true},   {"pre_tokenizer", BatchValue::text, true},
      {"container", BatchValue::text, true},    {"compression", BatchValue::count, true},
      {"requantize", BatchValue::flag, true},   {"scheme", BatchValue::text, true},
      {"weights_only", BatchValue::flag, true}, {"shard_size", BatchValue::size, true},
  };
  return options;
}

}  // namespace quant
