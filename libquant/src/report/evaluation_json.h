// The evaluation within report.json.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "quant/report.h"
#include "report/json_object.h"

namespace quant::report {

nlohmann::json evaluation_json(const EvaluationReport& evaluation);
/// What depends on clock and machine.
nlohmann::json evaluation_run_json(const EvaluationReport& evaluation);

/// Throws Error{corrupt_file} naming `source` and the key.
EvaluationReport read_evaluation(Object object, const std::string& source);
void read_evaluation_run(Object object, EvaluationReport& evaluation);

}  // namespace quant::report
