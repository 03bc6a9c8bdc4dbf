// Goes through the model a second time, layer after layer, and fits the linears that read removed channels.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "pipeline/block_stream.h"
#include "quant/report.h"
#include "quant/structured.h"
#include "structured/cut.h"
#include "structured/output_model.h"

namespace quant::structured {

/// What was done to one linear.
struct FittedLinear {
  CalibrationRecord record;
  double error_before = 0;  ///< relative output error of the columns as they were, on the smaller model's inputs
  std::string note;
};

struct CompensationInput {
  const StructuredPlan* plan = nullptr;
  const ModelAxes* axes = nullptr;
  const ModelProgram* program = nullptr;    ///< of the original
  const LogicalTensors* tensors = nullptr;  ///< likewise
  const ProgramModel* model = nullptr;      ///< likewise
  const KeptUnits* kept = nullptr;
  std::vector<NewBias> biases;
  std::vector<std::string> bias_keys;  ///< of config.json
  const StreamContext* context = nullptr;
  OutputModel* output = nullptr;
  std::function<void(std::size_t block, const std::string& what)> begin;
};
struct CompensationResult {
  std::map<std::string, FittedLinear> linears;  ///< by module of the original
  std::vector<BlockReport> blocks;
};
CompensationResult compensate(const CompensationInput& input);

/// Units whose removal the streams of the second pass know: hidden channels, layers and experts; heads and FFN channels
/// are there in full.
KeptUnits outer_units(const KeptUnits& kept, const KeptUnits& all);

}  // namespace quant::structured
