// Outcomes as JSON: for their own files, and within a summary.
#pragma once

#include <nlohmann/json.hpp>

#include "quant/batch.h"

namespace quant::batch {

nlohmann::json figures_json(const JobFigures& figures);
nlohmann::json outcome_json(const JobOutcome& outcome);

}  // namespace quant::batch
