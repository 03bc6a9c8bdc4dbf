// What `quant eval` prints.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "output.h"
#include "quant/evaluate.h"
#include "quant/report.h"

namespace quant::cli {

/// How one of the models was run.
struct EvaluatedModel {
  std::string path;
  std::string weights;      ///< "int4 sym group 128", "F16"
  std::string activations;  ///< "int8 sym token in 42 linears", "float"
  std::string kv_cache;     ///< "int4, keys per channel, ...", "float"
};

struct EvalReport {
  EvaluatedModel model;
  std::optional<EvaluatedModel> base;
  std::string product;  ///< "f32"
  int threads = 0;

  std::string text;  ///< file, as given
  std::optional<EvalWindows> windows;
  std::uint64_t window_length = 0;
  std::optional<std::int32_t> first;  ///< the token that begins each window
  std::optional<EvalResult> result;

  std::string choices_file;
  bool choices_special = false;
  std::optional<ChoiceResult> choices;

  std::optional<SpeedResult> speed;
  bool resident = true;
  std::uint64_t memory_planned = 0;
  std::uint64_t memory_measured = 0;
  std::uint64_t memory_resident = 0;
  double seconds = 0;
};

/// What `quant report` and `quant run` say of an evaluation: its text and windows, then perplexity, increase, ...
std::vector<std::pair<std::string, std::string>> evaluation_fields(const EvaluationReport& evaluation);

std::string eval_text(const EvalReport& report);
Json eval_json(const EvalReport& report);

}  // namespace quant::cli
