// The result of a search for smoothing factors (SmoothQuant, AWQ), in memory and as a JSON file. Library
// quant::algorithms.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace quant {

/// Factors of one producer: its channels are divided by them, its readers' columns multiplied.
struct SmoothingFactors {
  std::string method;                    ///< "awq", "smoothquant"
  std::string smooth_layer;              ///< "model.layers.0.input_layernorm"
  std::vector<float> factors;            ///< [columns of the readers], positive and finite; empty: left as it was
  std::map<std::string, double> values;  ///< what was found: "ratio", "alpha", "loss", "loss_unscaled"
};

/// Writes one JSON object: {"format": "quant-smoothing-factors", "version": 1, "method", "smooth_layer", "factors",
/// "values"}; factors with the nine digits that keep float32 exact. The file appears under its name only when complete.
/// Throws Error{io}.
void write_smoothing_factors(const std::filesystem::path& path, const SmoothingFactors& factors);
/// Throws Error{io}, and Error{corrupt_file} naming the file and what is wrong in it.
SmoothingFactors read_smoothing_factors(const std::filesystem::path& path);

}  // namespace quant
