// What the files beside the smaller model say.
#pragma once

#include <string>

#include "structured/compensation.h"
#include "structured/work.h"

namespace quant::structured {

/// report.json: the linears whose shape changed or that were fitted, and what is copied.
RunReport make_report(const StructuredPlan& plan, const KeptUnits& kept, const CutList& cuts,
                      const CompensationResult& compensation);
/// structure.json: the axes, and for each layer the units that were kept and the scores of heads, layers and experts.
std::string structure_json(const StructuredPlan& plan, const KeptUnits& kept, const Scores& scores);

}  // namespace quant::structured
