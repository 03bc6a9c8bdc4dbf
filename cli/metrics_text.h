// Error measures in tables and in JSON, the same in every command.
#pragma once

#include <string>

#include "output.h"
#include "quant/metrics.h"

namespace quant::cli {

/// {"weights", "nmse", "sqnr_db", "cosine", "rmse", "max_abs_error"}; sqnr_db is null for an exact result.
Json metrics_json(const ErrorSums& sums);
std::string sqnr_text(double sqnr_db);                            ///< "21.43 dB", "exact"
std::string nmse_text(double nmse);                               ///< "7.19e-03", "0"
std::string number_text(double value);                            ///< four significant digits
std::string shape_text(const std::vector<std::uint64_t>& shape);  ///< "4096 x 11008", "scalar"

}  // namespace quant::cli
