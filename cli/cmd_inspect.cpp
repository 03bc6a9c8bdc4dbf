// quant inspect: what a checkpoint holds.
#include <fmt/format.h>

#include <cstdio>
#include <set>

#include "errors.h"
#include "inspect_text.h"
#include "progress.h"
#include "quant/compare.h"
#include "quant/open.h"
#include "session.h"
#include "units.h"

namespace quant::cli {
namespace {

struct InspectCommand {
  std::string model;
  bool statistics = false;
  bool outliers = false;
  bool tensors = false;
  int threads = 0;
};

void add(TypeTotals& totals, std::uint64_t elements, std::uint64_t bytes) {
  ++totals.tensors;
  totals.elements += elements;
  totals.bytes += bytes;
}

void count_types(Inspection& inspection) {
  for (const TensorInfo& info : inspection.checkpoint->tensors()) {
    add(inspection.types[std::string(dtype_name(info.dtype))], element_count(info.shape), info.bytes);
  }
}

// Scales of quantized caches are no parameters of the model.
std::set<std::string> count_caches(Inspection& inspection) {
  std::set<std::string> scales;
  const Layout* layout = inspection.tensors->layout();
  if (layout == nullptr) return scales;
  const auto args = layout->kv_cache_scheme(inspection.checkpoint->config());
  if (!args) return scales;
  inspection.kv_cache = describe(*args);
  for (const StoredKv& kv : layout->find_kv(*inspection.checkpoint)) {
    ++inspection.caches;
    scales.insert(kv.tensors.begin(), kv.tensors.end());
  }
  return scales;
}

void count_linears(Inspection& inspection) {
  const std::set<std::string> cache_scales = count_caches(inspection);
  for (const LogicalTensor& tensor : inspection.tensors->tensors()) {
    if (cache_scales.contains(tensor.name)) {
      add(inspection.classes["Cache scale"], tensor.count(), tensor.stored_bytes);
      inspection.cache_scales.insert(tensor.name);
      continue;
    }
    inspection.parameters += tensor.count();
    if (tensor.linear == nullptr) continue;
    add(inspection.classes["Linear (quantized)"], tensor.count(), tensor.stored_bytes);
    SchemeTotals& scheme = inspection.schemes[describe_storage(tensor)];
    scheme.format = tensor.linear->format;
    ++scheme.linears;
    scheme.weights += tensor.count();
    scheme.bytes += tensor.stored_bytes;
  }
}

// Parts of quantized linears are counted with their linear and not as modules or tensors of their own.
void count_modules(Inspection& inspection) {
  std::set<std::string> parts = inspection.cache_scales;
  std::set<std::string> quantized;
  if (inspection.tensors != nullptr) {
    for (const StoredLinear& linear : inspection.tensors->linears()) {
      parts.insert(linear.tensors.begin(), linear.tensors.end());
      quantized.insert(linear.shape.module);
    }
  }
  const ModelOutline outline = outline_model(*inspection.checkpoint);
  for (const Module& module : outline.modules) {
    if (module.weight == nullptr) {
      if (!quantized.contains(module.name)) inspection.tied.push_back(module.name);
    } else if (!parts.contains(module.weight->name)) {
      add(inspection.classes[module.class_name], element_count(module.weight->shape), module.weight->bytes);
    }
  }
  for (const TensorInfo* other : outline.others) {
    if (!parts.contains(other->name)) add(inspection.classes["(no module)"], element_count(other->shape), other->bytes);
  }
  if (inspection.tensors == nullptr) inspection.parameters = outline.parameters;
}

void measure(const InspectCommand& options, Inspection& inspection) {
  if (!options.statistics && !options.outliers) return;
  if (inspection.tensors == nullptr) throw Error(ErrorCode::unsupported, inspection.unreadable);
  ProgressLine line("reading", false);
  StatisticsOptions statistics;
  statistics.scan = scan_options(line, options.threads);
  statistics.outliers = options.outliers;
  inspection.statistics = tensor_statistics(*inspection.tensors, statistics);
}

int inspect_command(const InspectCommand& options, Session& session) {
  const auto checkpoint = open_checkpoint(options.model);
  Inspection inspection;
  inspection.checkpoint = checkpoint.get();
  inspection.with_statistics = options.statistics || options.outliers;
  inspection.with_outliers = options.outliers;
  inspection.with_tensors = options.tensors;
  std::unique_ptr<LogicalTensors> tensors;
  try {
    tensors = std::make_unique<LogicalTensors>(*checkpoint, session.registry);
    inspection.tensors = tensors.get();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unsupported) throw;
    inspection.unreadable = error.what();
  }
  count_types(inspection);
  if (tensors) count_linears(inspection);
  count_modules(inspection);
  measure(options, inspection);
  write_stdout(session.json ? json_text(inspect_json(inspection)) : inspect_text(inspection));
  const auto bad = bad_tensors(inspection);
  for (const std::string& sentence : bad) fmt::print(stderr, "problem: {}\n", printable(sentence));
  return bad.empty() ? kExitOk : kExitFinding;
}

}  // namespace

void add_inspect(CLI::App& program, Session& session) {
  const auto options = std::make_shared<InspectCommand>();
  CLI::App* command = add_command(program, session, "inspect", "Show what a checkpoint holds",
                                  "quant inspect examples/tiny-llama-novels --stats", options, inspect_command);
  command->add_option("MODEL", options->model, "Checkpoint: directory, .safetensors or .h5 file")->required();
  command->add_flag("--tensors", options->tensors, "List every tensor");
  command->add_flag("--stats", options->statistics,
                    "Read all values: range, moments, zeros, NaN and infinity per tensor");
  command->add_flag("--outliers", options->outliers,
                    "--stats, and weights beyond 6 sigma and the columns of largest magnitude");
  add_threads_option(*command, options->threads);
}

}  // namespace quant::cli
