#include "quant/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "parallel_tasks.h"
#include "quant/error.h"
#include "verify_checks.h"

namespace quant {
namespace verify {
namespace {

namespace fs = std::filesystem;

// ---- structure
// -------------------------------------------------------------------------------------------------------

bool is_container(const Context& context, const fs::path& file) {
  const auto& containers = context.registry.containers();
  return std::any_of(containers.begin(), containers.end(),
                     [&](const auto& container) { return file.extension() == container->extension(); });
}

void check_stray_files(const Context& context) {
  const auto& files = context.checkpoint.files();
  for (const auto& entry : fs::directory_iterator(context.checkpoint.location())) {
    if (!entry.is_regular_file() || !is_container(context, entry.path())) continue;
    const std::string name = entry.path().filename().string();
    const bool known = std::any_of(files.begin(), files.end(),
                                   [&](const CheckpointFile& file) { return file.path.filename() == name; });
    if (!known) context.warning("stray_file", name, "the index does not name this file: nothing loads it");
  }
}

void check_index_text(const Context& context, const fs::path& index) {
  std::ifstream in(index, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  const auto json = nlohmann::json::parse(text.str(), nullptr, false);
  const std::string name = index.filename().string();
  if (!in || !json.is_object()) return context.error("index", name, "the index is no JSON object");
  const auto metadata = json.find("metadata");
  if (metadata == json.end() || !metadata->is_object() || !metadata->contains("total_size")) return;
  const auto& size = (*metadata)["total_size"];
  if (size.is_number() && size.get<double>() == static_cast<double>(context.result.bytes)) return;
  context.error("index_total_size", name,
                fmt::format("total_size is {}, but the tensors have {} bytes", size.dump(), context.result.bytes));
}

void check_structure(const Context& context) {
  for (const TensorInfo& info : context.checkpoint.tensors()) context.result.bytes += info.bytes;
  context.result.files = context.checkpoint.files().size();
  context.result.tensors = context.checkpoint.tensors().size();
  if (context.result.tensors == 0)
    context.error("empty", context.checkpoint.location().string(), "there are no tensors");
  const fs::path& location = context.checkpoint.location();
  if (!fs::is_directory(location)) return;
  if (context.checkpoint.config().text.empty())
    context.error("config_missing", "config.json", "there is no config.json");
  for (const auto& container : context.registry.containers()) {
    const fs::path index = location / fmt::format("model{}.index.json", container->extension());
    if (fs::exists(index)) check_index_text(context, index);
  }
  check_stray_files(context);
}

// ---- quantized weights
// -----------------------------------------------------------------------------------------------

// What is wrong in one block of rows, counted so that a broken tensor gives one finding of each kind.
struct BlockFaults {
  std::uint64_t scales = 0, bad_scales = 0, zero_scales = 0, bad_zero_points = 0, bad_codes = 0;
  std::string first_scale, first_zero_point, first_code;
  bool bad_global_scale = false;
  float global_scale = 1.0F;
  std::optional<Finding> failure;
};

std::string place(const StoredLinear& linear, const RowBlock& block, const QuantizedTensor& slice, std::size_t i) {
  const std::uint64_t first =
      first_scale(linear.args, block.first, slice.cols) / std::max<std::uint64_t>(1, slice.grid.cols);
  const std::uint64_t scale_row = first + i / slice.grid.cols;
  return fmt::format("scale row {}, column {} of '{}'", scale_row, i % slice.grid.cols, linear.shape.module);
}

void check_scales(const StoredLinear& linear, const RowBlock& block, const QuantizedTensor& slice,
                  BlockFaults& faults) {
  faults.scales += slice.scales.size();
  for (std::size_t i = 0; i < slice.scales.size(); ++i) {
    const float scale = slice.scales[i];
    if (std::isfinite(scale) && scale != 0.0F) continue;
    (scale == 0.0F ? faults.zero_scales : faults.bad_scales) += 1;
    if (faults.first_scale.empty()) faults.first_scale = fmt::format("{} is {}", place(linear, block, slice, i), scale);
  }
  faults.global_scale = slice.global_scale;
  faults.bad_global_scale = !std::isfinite(slice.global_scale) || slice.global_scale == 0.0F;
}

void check_integers(const StoredLinear& linear, const RowBlock& block, const QuantizedTensor& slice,
                    BlockFaults& faults) {
  if (linear.args.type != NumberType::integer) return;
  const int low = code_min(linear.args);
  const int high = code_max(linear.args);
  for (std::size_t i = 0; i < slice.zero_points.size(); ++i) {
    const int zero = slice.zero_points[i];
    if (zero >= low && zero <= high) continue;
    if (faults.bad_zero_points++ > 0) continue;
    faults.first_zero_point = fmt::format("{} has {}", place(linear, block, slice, i), zero);
  }
  for (std::size_t i = 0; i < slice.codes.size(); ++i) {
    const int code = slice.codes[i];
    if (code >= low && code <= high) continue;
    if (faults.bad_codes++ > 0) continue;
    faults.first_code = fmt::format("row {}, column {} of '{}' has {}", block.first + i / slice.cols, i % slice.cols,
                                    linear.shape.module, code);
  }
}

BlockFaults check_block(const Context& context, const Layout& layout, const StoredLinear& linear,
                        const RowBlock& block) {
  BlockFaults faults;
  try {
    QuantizedTensor slice;
    layout.read_rows(context.checkpoint, linear, block.first, block.count, slice);
    check_scales(linear, block, slice, faults);
    check_integers(linear, block, slice, faults);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::io) throw;
    faults.failure = finding_of(error, linear.shape.module);
  }
  return faults;
}

void merge(const BlockFaults& part, BlockFaults& whole) {
  whole.scales += part.scales;
  whole.bad_scales += part.bad_scales;
  whole.zero_scales += part.zero_scales;
  whole.bad_zero_points += part.bad_zero_points;
  whole.bad_codes += part.bad_codes;
  whole.bad_global_scale |= part.bad_global_scale;
  whole.global_scale = part.global_scale;
  if (whole.first_scale.empty()) whole.first_scale = part.first_scale;
  if (whole.first_zero_point.empty()) whole.first_zero_point = part.first_zero_point;
  if (whole.first_code.empty()) whole.first_code = part.first_code;
  if (!whole.failure) whole.failure = part.failure;
}

void report_faults(const Context& context, const StoredLinear& linear, const BlockFaults& faults) {
  const std::string& module = linear.shape.module;
  context.result.scales += faults.scales;
  if (faults.failure) context.result.findings.push_back(*faults.failure);
  if (faults.bad_scales > 0) {
    context.error("scale_not_finite", module,
                  fmt::format("{} scales are NaN or infinite; first: {}", faults.bad_scales, faults.first_scale));
  }
  if (faults.zero_scales > 0) {
    context.error("scale_zero", module,
                  fmt::format("{} scales are zero; first: {}", faults.zero_scales, faults.first_scale));
  }
  if (faults.bad_global_scale) {
    context.error("global_scale", module, fmt::format("the global scale is {}", faults.global_scale));
  }
  if (faults.bad_zero_points > 0) {
    context.error("zero_point_range", module,
                  fmt::format("{} zero points are outside {}..{}; first: {}", faults.bad_zero_points,
                              code_min(linear.args), code_max(linear.args), faults.first_zero_point));
  }
  if (faults.bad_codes > 0) {
    context.error("code_range", module,
                  fmt::format("{} codes are outside {}..{}; first: {}", faults.bad_codes, code_min(linear.args),
                              code_max(linear.args), faults.first_code));
  }
}

// ---- plain tensors
// ---------------------------------------------------------------------------------------------------

struct BadValues {
  std::uint64_t count = 0;
  std::uint64_t first = 0;
  float value = 0;
};

BadValues find_bad_values(const Checkpoint& checkpoint, const TensorInfo& info) {
  constexpr std::uint64_t kChunk = std::uint64_t{1} << 20;
  const TensorView view = checkpoint.view(info);
  const std::uint64_t total = element_count(info.shape);
  std::vector<float> values(std::min(kChunk, total));
  BadValues bad;
  for (std::uint64_t first = 0; first < total; first += kChunk) {
    const std::span<float> chunk(values.data(), std::min(kChunk, total - first));
    read_f32(view, first, chunk);
    for (std::size_t i = 0; i < chunk.size(); ++i) {
      if (std::isfinite(chunk[i])) continue;
      if (bad.count++ == 0) bad.first = first + i, bad.value = chunk[i];
    }
  }
  return bad;
}

bool can_hold_nan(DType type) { return is_floating(type) && has_float_view(type) && type != DType::F4; }

// ---- the pass over the data
// --------------------------------------------------------------------------------------------

struct Work {
  std::vector<RowBlock> blocks;          ///< of quantized linears
  std::vector<const TensorInfo*> plain;  ///< tasks after the blocks
  std::vector<std::uint64_t> costs;
};

Work plan_work(const Context& context, const Layout* layout, const std::vector<StoredLinear>& linears) {
  constexpr std::uint64_t kBlockValues = std::uint64_t{1} << 20;
  Work work;
  std::vector<std::string> owned;
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const LinearShape& shape = linears[i].shape;
    const std::uint64_t alignment = std::max<std::uint64_t>(1, layout->read_alignment(linears[i]));
    const std::uint64_t rows = std::max<std::uint64_t>(1, kBlockValues / std::max<std::uint64_t>(1, shape.cols));
    append_blocks(i, shape.rows, std::max(alignment, rows / alignment * alignment), work.blocks);
    owned.insert(owned.end(), linears[i].tensors.begin(), linears[i].tensors.end());
  }
  for (const RowBlock& block : work.blocks) work.costs.push_back(block.count * linears[block.tensor].shape.cols);
  std::sort(owned.begin(), owned.end());
  for (const TensorInfo& info : context.checkpoint.tensors()) {
    if (!can_hold_nan(info.dtype) || std::binary_search(owned.begin(), owned.end(), info.name)) continue;
    work.plain.push_back(&info);
    work.costs.push_back(element_count(info.shape));
  }
  return work;
}

void check_data(const Context& context, const Layout* layout, const std::vector<StoredLinear>& linears) {
  const Work work = plan_work(context, layout, linears);
  std::vector<BlockFaults> faults(work.blocks.size());
  std::vector<BadValues> bad(work.plain.size());
  run_tasks(work.costs, context.options, [&](std::size_t i) {
    if (i < work.blocks.size()) {
      faults[i] = check_block(context, *layout, linears[work.blocks[i].tensor], work.blocks[i]);
    } else {
      bad[i - work.blocks.size()] = find_bad_values(context.checkpoint, *work.plain[i - work.blocks.size()]);
    }
  });
  std::vector<BlockFaults> merged(linears.size());
  for (std::size_t i = 0; i < faults.size(); ++i) merge(faults[i], merged[work.blocks[i].tensor]);
  for (std::size_t i = 0; i < linears.size(); ++i) report_faults(context, linears[i], merged[i]);
  for (std::size_t i = 0; i < bad.size(); ++i) {
    if (bad[i].count == 0) continue;
    context.error("value_not_finite", work.plain[i]->name,
                  fmt::format("{} values are NaN or infinite; first: element {} is {}", bad[i].count, bad[i].first,
                              bad[i].value));
  }
}

std::vector<StoredLinear> find_linears(const Context& context, const Layout*& layout) {
  try {
    layout = layout_of(context.checkpoint, context.registry);
    if (layout == nullptr) return {};
    context.result.layout = std::string(layout->name());
    return layout->find_linears(context.checkpoint);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::io) throw;
    context.result.findings.push_back(finding_of(error, context.checkpoint.location().string()));
    layout = nullptr;
    return {};
  }
}

}  // namespace

void Context::error(std::string check, std::string subject, std::string message) const {
  result.findings.push_back({Finding::Severity::error, std::move(check), std::move(subject), std::move(message)});
}

void Context::warning(std::string check, std::string subject, std::string message) const {
  result.findings.push_back({Finding::Severity::warning, std::move(check), std::move(subject), std::move(message)});
}

}  // namespace verify

std::size_t Verification::count(Finding::Severity severity) const {
  return static_cast<std::size_t>(
      std::count_if(findings.begin(), findings.end(), [&](const Finding& f) { return f.severity == severity; }));
}

Finding finding_of(const Error& error, const std::string& subject) {
  const std::string check = error.kind().empty() ? std::string(to_string(error.code())) : error.kind();
  return {Finding::Severity::error, check, subject, error.what()};
}

std::string_view to_string(Finding::Severity severity) {
  return severity == Finding::Severity::error ? "error" : "warning";
}

Verification verify_checkpoint(const Checkpoint& checkpoint, const Registry& registry, const ScanOptions& options) {
  Verification result;
  const verify::Context context{checkpoint, registry, options, result};
  verify::check_structure(context);
  const Layout* layout = nullptr;
  const std::vector<StoredLinear> linears = verify::find_linears(context, layout);
  result.linears = linears.size();
  verify::check_data(context, layout, linears);
  // Without a layout that was read the rest would only repeat the finding above, once for every linear.
  const bool readable = layout != nullptr || checkpoint.config().quantization_config.empty();
  if (readable) {
    verify::check_config(context, linears);
    if (layout != nullptr) {
      for (const std::string& remark : layout->remarks(checkpoint, linears)) {
        context.warning("mislabelled", "config.json", remark);
      }
    }
    verify::check_report(context, linears);
  }
  return result;
}

}  // namespace quant
