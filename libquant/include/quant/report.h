// The report of a run: what was done to every layer and how large its error is.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "quant/eval_result.h"
#include "quant/metrics.h"
#include "quant/tensor.h"

namespace quant {

/// Version 2 added what calibrated runs measure, version 3 evaluations and imported statistics, version 4 sparsity;
/// files of all versions are read.
inline constexpr int kReportSchemaVersion = 4;

/// Errors of a linear's outputs over the calibration inputs X, from sums over all outputs y = X w^T and their
/// approximations v: relative error noise / signal and what else `summarize` makes of sums.
struct OutputErrors {
  double signal = 0;  ///< ||X W^T||^2 / tokens
  double noise = 0;   ///< ||X (W - V)^T||^2 / tokens
  double dot = 0;     ///< <X W^T, X V^T> / tokens
  double recon = 0;   ///< ||X V^T||^2 / tokens
};
/// nmse, sqnr_db and cosine of outputs; the other fields stay 0.
WeightMetrics summarize(const OutputErrors& errors);

/// What a calibrated algorithm did to one linear.
struct CalibrationRecord {
  std::uint64_t tokens = 0;            ///< inputs that were seen
  double damping = 0;                  ///< fraction of the mean diagonal that was added
  std::string fallback;                ///< what was done instead of the method, and why
  std::optional<OutputErrors> output;  ///< where a Gram matrix was there to compute it
};

/// One decoder layer after its linears were quantized.
struct BlockReport {
  std::string name;                    ///< "model.layers.0"
  std::optional<OutputErrors> output;  ///< of the residual stream, where the unquantized model ran beside
  std::vector<std::string> notes;      ///< what transforms did
};

/// Where statistics came from that a run took from a file instead of collecting them; texts may be empty.
struct StatisticsSource {
  std::string data;  ///< name of the file that they were collected on
  std::string data_hash;
  std::string tool_version;
};

/// The data that a calibrated run learnt from.
struct CalibrationReport {
  std::string source;  ///< name of the file, without its folder
  std::string hash;    ///< of token ids and sequence lengths; of the whole file where statistics were imported
  std::uint64_t sequences = 0;
  std::uint64_t tokens = 0;
  std::uint64_t longest = 0;
  std::string product;  ///< "f32" or "bf16"
  std::vector<BlockReport> blocks;
  std::optional<StatisticsSource> statistics = {};  ///< where no text was read
  bool unquantized_inputs = false;                  ///< CalibrationRequest::unquantized_inputs
};

/// How a model ran in an evaluation.
struct EvaluatedAs {
  std::string weights;      ///< "int4 sym group 128", "F16"
  std::string activations;  ///< "int8 sym token in 42 linears", "float"
  std::string kv_cache;     ///< "int8 sym tensor", "float"
};

/// What the finished checkpoint makes of a text: docs/evaluation.md.
struct EvaluationReport {
  std::string source;  ///< name of the file, without its folder
  std::string hash;    ///< of token ids and window lengths
  std::uint64_t window_length = 0;
  std::optional<std::int32_t> first_token;  ///< that begins each window
  std::uint64_t text_bytes = 0;             ///< of the windows' tokens, decoded; 0: not known
  std::string product;                      ///< "f32" or "bf16"
  EvaluatedAs model;
  std::optional<EvaluatedAs> base;  ///< with result.base
  EvalResult result;
  double seconds = 0;
  std::uint64_t peak_memory_planned = 0;
  std::uint64_t peak_memory_measured = 0;
  std::uint64_t peak_resident_memory = 0;  ///< as in RunReport

  /// `nats` per token as bits per byte of the text; NaN where the bytes are not known.
  double bits_per_byte(double nats) const;
};

/// How a linear was pruned. The share of its weights that are 0 is that of LayerReport::sums.
struct SparsityRecord {
  std::string modifiers;         ///< "SparseGPTModifier", in the order of the recipe
  std::string pattern;           ///< what each asked for: "50 %", "2:4"
  std::uint32_t keep = 0;        ///< of an N:M pattern: N kept ...
  std::uint32_t of = 0;          ///< ... of each M; 0: no such pattern
  std::uint64_t violations = 0;  ///< groups of M with more than N weights that are not 0
};

struct LayerReport {
  std::string module;
  Shape shape;            ///< [out_features, in_features]
  std::string dtype;      ///< of the original weight: "F16"
  std::string rule;       ///< the target that chose it
  std::string modifier;   ///< "QuantizationModifier"
  std::string algorithm;  ///< "rtn"
  std::string scheme;     ///< describe(args)
  std::string format;     ///< "pack-quantized"
  double bits_per_weight = 0;
  std::uint64_t bytes_before = 0;
  std::uint64_t bytes_after = 0;
  ErrorSums sums;
  double scale_min = 0;  ///< smallest and largest |scale|
  double scale_max = 0;
  double seconds = 0;              ///< thread time spent on this layer
  std::vector<std::string> notes;  ///< fallbacks and remarks
  std::vector<float> row_nmse;     ///< [out_features]
  std::vector<float> group_nmse;   ///< [scale columns]
  std::optional<CalibrationRecord> calibration;
  std::optional<SparsityRecord> sparsity;
};

struct SkippedTensor {
  std::string name;
  Shape shape;
  std::string dtype;
  std::uint64_t bytes = 0;
  std::string reason;
};

struct RunReport {
  std::string tool_version;
  std::string model;         ///< path as given
  std::string architecture;  ///< "LlamaForCausalLM"
  std::string recipe_name;
  std::string recipe_text;
  std::string plan_identity;  ///< Plan::identity
  std::string layout;
  std::string machine;      ///< processor, instruction set, threads
  std::string fingerprint;  ///< hash of the plan and of size and time of the input files
  std::string started;      ///< UTC, ISO 8601
  double seconds = 0;       ///< wall time
  std::uint64_t peak_memory_planned = 0;
  std::uint64_t peak_memory_measured = 0;  ///< resident, mapped file pages aside; 0 if unknown
  std::uint64_t peak_resident_memory = 0;  ///< of the process so far, mapped file pages included; 0 if unknown
  std::uint64_t bytes_before = 0;
  std::uint64_t bytes_after = 0;
  std::uint64_t parameters = 0;
  double bits_per_weight = 0;
  double model_bits_per_parameter = 0;
  std::vector<LayerReport> layers;  ///< in model order
  std::vector<SkippedTensor> skipped;
  std::vector<std::string> warnings;
  std::optional<CalibrationReport> calibration;
  std::optional<EvaluationReport> evaluation;
};

/// All layers together.
ErrorSums total_errors(const RunReport& report);

/// Errors of outputs over the layers where they were measured. Each layer counts the same, however large its outputs.
struct OutputSummary {
  std::size_t layers = 0;
  double relative_error = 0;  ///< the mean over these layers
  double sqnr_db = 0;         ///< of that mean
  double largest = 0;         ///< relative error of the worst of them
};
/// Nothing if no layer's outputs were measured.
std::optional<OutputSummary> output_summary(const RunReport& report);
/// Indices of the `count` worst layers: by the error of their outputs, then those without one by that of their weights;
/// not-a-number counts as the worst, model order among equals.
std::vector<std::size_t> layers_by_error(const RunReport& report, std::size_t count);
/// Layers that were not coded by their method, or whose inputs no calibration token reached.
struct FallbackSummary {
  std::size_t layers = 0;
  std::size_t starved = 0;  ///< of these, for lack of calibration tokens (starved experts)
  std::string sentence;     ///< "3 linears fell back, ...: ", the first of them and why; empty if there are none
};
FallbackSummary fallback_summary(const RunReport& report);

/// JSON text: schema_version, sorted keys, newline at the end; per-row and per-group arrays are left to HDF5. All that
/// depends on the machine or the clock stands under the one key "run".
std::string report_to_json(const RunReport& report);
/// Reads what report_to_json wrote. Throws Error{corrupt_file} naming `source` and the key.
RunReport report_from_json(const std::string& text, const std::string& source);
/// One self-contained HTML page: inline CSS, SVG and script, no network, readable in dark and light, printable.
std::string report_to_html(const RunReport& report);
/// One line per layer, comma-separated, header first.
std::string report_to_csv(const RunReport& report);
/// HDF5 with per-row and per-group arrays (docs/report.md gives the groups). Throws Error{io}.
void write_report_hdf5(const RunReport& report, const std::filesystem::path& path);
/// Replaces report.h5, report.html and report.json of a directory, each at once and durably, the last one last.
/// Throws Error{io}.
void write_report_files(const RunReport& report, const std::filesystem::path& directory);
/// Adds row_nmse and group_nmse of `path` to the layers of the same name. Throws Error{io} or Error{corrupt_file}.
void read_report_hdf5_arrays(const std::filesystem::path& path, RunReport& report);

}  // namespace quant
