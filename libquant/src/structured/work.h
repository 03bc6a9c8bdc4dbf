// What plan and run of structured pruning share.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "plan/calibration_work.h"
#include "quant/structured.h"
#include "structured/cut.h"
#include "structured/scores.h"

namespace quant::structured {

/// How many units stay on each axis; the same in all layers that have it.
struct KeptCounts {
  std::uint64_t hidden = 0, layers = 0, experts = 0;
  std::uint64_t heads_per_group = 0, groups = 0;
  std::map<std::string, std::uint64_t> ffn;  ///< by FfnAxis::key
};

struct Work {
  explicit Work(const Checkpoint& checkpoint, const Registry& registry) : calibration(checkpoint, registry) {}

  CalibrationWork calibration;  ///< tensors, program, data and chunks
  std::optional<ProgramModel> model;
  std::optional<ModelAxes> axes;
  KeptCounts counts;
  ScoreRequest request;
  std::vector<bool> stays;  ///< layers that are not removed whatever their score is
  std::vector<NewBias> biases;
  std::vector<std::string> bias_keys;
};

/// Units by their scores; axes without scores keep their first ones.
KeptUnits choose_units(const Work& work, const Scores& scores);
/// Cuts, config.json and the check that the smaller model means what is kept of the original.
struct SmallerModel {
  CutList cuts;
  std::string config;
};
SmallerModel make_smaller(const StructuredPlan& plan, const KeptUnits& kept);

/// Adds the smallest number of channels of each MLP and so on to the plan; problems for what cannot be.
void count_units(StructuredPlan& plan);
/// Fills in what memory the run takes.
void estimate_memory(StructuredPlan& plan);

}  // namespace quant::structured
