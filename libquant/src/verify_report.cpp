#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "quant/error.h"
#include "quant/report.h"
#include "verify_checks.h"

namespace quant::verify {
namespace {

namespace fs = std::filesystem;

std::optional<std::string> read_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return in ? std::optional(text.str()) : std::nullopt;
}

std::uint64_t stored_bytes(const Context& context, const StoredLinear& linear) {
  std::uint64_t bytes = 0;
  for (const std::string& part : linear.tensors) {
    if (const TensorInfo* info = context.checkpoint.find(part)) bytes += info->bytes;
  }
  return bytes;
}

void check_layer(const Context& context, const LayerReport& layer, const StoredLinear& linear) {
  const Shape shape{linear.shape.rows, linear.shape.cols};
  if (layer.shape != shape) {
    context.error("report_shape", layer.module,
                  fmt::format("the report says {}, the tensors say {}", to_string(layer.shape), to_string(shape)));
  }
  if (layer.format != linear.format) {
    context.error("report_format", layer.module,
                  fmt::format("the report says '{}', the tensors are '{}'", layer.format, linear.format));
  }
  if (const std::uint64_t bytes = stored_bytes(context, linear); layer.bytes_after != bytes) {
    context.error("report_bytes", layer.module,
                  fmt::format("the report says {} bytes, the tensors have {}", layer.bytes_after, bytes));
  }
}

void check_layers(const Context& context, const RunReport& report, const std::vector<StoredLinear>& linears) {
  std::map<std::string, const StoredLinear*> by_name;
  for (const StoredLinear& linear : linears) by_name.emplace(linear.shape.module, &linear);
  for (const LayerReport& layer : report.layers) {
    const auto found = by_name.find(layer.module);
    if (found == by_name.end()) {
      context.error("report_extra_layer", layer.module, "the report has this layer, but it is not quantized");
      continue;
    }
    check_layer(context, layer, *found->second);
    by_name.erase(found);
  }
  for (const auto& [name, linear] : by_name) {
    context.error("report_missing_layer", name, "this layer is quantized, but the report does not have it");
  }
  for (const SkippedTensor& skipped : report.skipped) {
    if (context.checkpoint.find(skipped.name) == nullptr) {
      context.error("report_skipped", skipped.name, "the report says that this tensor was copied, but it is not there");
    }
  }
  if (report.bytes_after != context.result.bytes) {
    context.error(
        "report_bytes", "report.json",
        fmt::format("the report says {} bytes, the tensors have {}", report.bytes_after, context.result.bytes));
  }
}

void check_arrays(const Context& context, const fs::path& path, RunReport& report) {
  if (!fs::exists(path))
    return context.warning("report_missing", "report.h5", "there is no report.h5 beside report.json");
  try {
    read_report_hdf5_arrays(path, report);
  } catch (const Error& error) {
    context.error("report", "report.h5", error.what());
  }
}

}  // namespace

void check_report(const Context& context, const std::vector<StoredLinear>& linears) {
  const fs::path& location = context.checkpoint.location();
  if (!fs::is_directory(location)) return;
  const fs::path path = location / "report.json";
  if (!fs::exists(path)) {
    if (!linears.empty())
      context.warning("report_missing", "report.json", "there is no report of how this was quantized");
    return;
  }
  try {
    const auto text = read_text(path);
    if (!text) return context.error("report", "report.json", "it cannot be read");
    RunReport report = report_from_json(*text, path.string());
    context.result.report = true;
    check_layers(context, report, linears);
    check_arrays(context, location / "report.h5", report);
  } catch (const Error& error) {
    context.error("report", "report.json", error.what());
  }
}

}  // namespace quant::verify
