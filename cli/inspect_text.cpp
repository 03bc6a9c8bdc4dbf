#include "inspect_text.h"

#include <fmt/format.h>

#include "metrics_text.h"
#include "quant/compare.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

using Align = Table::Align;

std::string architecture(const ModelConfig& config) {
  if (config.text.empty()) return "unknown (no config.json)";
  if (config.architectures.empty()) return config.model_type.empty() ? "not named in config.json" : config.model_type;
  return fmt::format("{}", fmt::join(config.architectures, ", "));
}

std::uint64_t tensor_bytes(const Inspection& inspection) {
  std::uint64_t bytes = 0;
  for (const auto& [name, type] : inspection.types) bytes += type.bytes;
  return bytes;
}

std::string quantization_text(const Inspection& inspection) {
  if (!inspection.unreadable.empty()) return inspection.unreadable;
  if (inspection.tensors->layout() == nullptr) return "none";
  std::string text = fmt::format("{}, {}", inspection.tensors->layout()->name(),
                                 counted(inspection.tensors->linears().size(), "linear"));
  if (inspection.kv_cache.empty()) return text;
  return text + fmt::format("; keys and values {}, with scales of {}", inspection.kv_cache,
                            counted(inspection.caches, "attention module"));
}

std::string totals_text(const std::string& title, const std::map<std::string, TypeTotals>& totals) {
  Table table({{title}, {"tensors", Align::right}, {"elements", Align::right}, {"bytes", Align::right}});
  for (const auto& [name, entry] : totals) {
    table.add({name, std::to_string(entry.tensors), human_count(entry.elements), human_bytes(entry.bytes)});
  }
  return table.text();
}

double bits_per_weight(const SchemeTotals& scheme) {
  return scheme.weights == 0 ? 0.0 : 8.0 * static_cast<double>(scheme.bytes) / static_cast<double>(scheme.weights);
}

std::string schemes_text(const Inspection& inspection) {
  Table table({{"scheme"},
               {"format"},
               {"linears", Align::right},
               {"weights", Align::right},
               {"bytes", Align::right},
               {"bits/weight", Align::right}});
  for (const auto& [name, scheme] : inspection.schemes) {
    table.add({name, scheme.format, std::to_string(scheme.linears), human_count(scheme.weights),
               human_bytes(scheme.bytes), fmt::format("{:.3f}", bits_per_weight(scheme))});
  }
  return table.text();
}

std::string files_text(const Inspection& inspection) {
  Table table({{"file"}, {"bytes", Align::right}});
  for (const CheckpointFile& file : inspection.checkpoint->files()) {
    table.add({file.path.filename().string(), human_bytes(file.bytes)});
  }
  return table.text();
}

std::string tensors_text(const Inspection& inspection) {
  Table table({{"tensor"}, {"shape"}, {"type"}, {"bytes", Align::right}});
  for (const TensorInfo& info : inspection.checkpoint->tensors()) {
    table.add({info.name, shape_text(info.shape), std::string(dtype_name(info.dtype)), human_bytes(info.bytes)});
  }
  return table.text();
}

std::string statistics_text(const Inspection& inspection) {
  Table table({{"tensor"},
               {"shape"},
               {"storage"},
               {"min", Align::right},
               {"max", Align::right},
               {"mean", Align::right},
               {"std", Align::right},
               {"kurtosis", Align::right},
               {"zeros", Align::right},
               {"NaN", Align::right},
               {"Inf", Align::right}});
  for (const TensorStatistics& s : inspection.statistics) {
    const LogicalTensor& tensor = inspection.tensors->tensors()[s.tensor];
    table.add({tensor.name, shape_text(tensor.shape), describe_storage(tensor), number_text(s.min), number_text(s.max),
               number_text(s.mean), number_text(s.stddev), fmt::format("{:.2f}", s.kurtosis), percent(s.zeros, s.count),
               std::to_string(s.nans), std::to_string(s.infinities)});
  }
  return table.text();
}

std::string outliers_text(const Inspection& inspection) {
  Table table({{"tensor"},
               {"beyond 6 sigma", Align::right},
               {"share", Align::right},
               {"absmax/std", Align::right},
               {"top columns (largest magnitude)"}});
  for (const TensorStatistics& s : inspection.statistics) {
    std::string columns;
    for (const ColumnPeak& peak : s.top_columns) {
      columns += fmt::format("{}{}: {:.3g}", columns.empty() ? "" : ", ", peak.column, peak.absmax);
    }
    table.add({inspection.tensors->tensors()[s.tensor].name, std::to_string(s.outliers),
               fmt::format("{:.4f} %",
                           s.count == 0 ? 0.0 : 100.0 * static_cast<double>(s.outliers) / static_cast<double>(s.count)),
               s.stddev > 0 ? fmt::format("{:.1f}", s.absmax / s.stddev) : "-", columns});
  }
  return table.text();
}

Json totals_json(const std::map<std::string, TypeTotals>& totals) {
  Json json = Json::object();
  for (const auto& [name, entry] : totals) {
    json[name] = {{"tensors", entry.tensors}, {"elements", entry.elements}, {"bytes", entry.bytes}};
  }
  return json;
}

Json statistics_json(const Inspection& inspection, const TensorStatistics& s) {
  const LogicalTensor& tensor = inspection.tensors->tensors()[s.tensor];
  Json json = {{"name", tensor.name},       {"shape", tensor.shape}, {"storage", describe_storage(tensor)},
               {"count", s.count},          {"min", s.min},          {"max", s.max},
               {"absmax", s.absmax},        {"mean", s.mean},        {"std", s.stddev},
               {"kurtosis", s.kurtosis},    {"zeros", s.zeros},      {"nans", s.nans},
               {"infinities", s.infinities}};
  if (!inspection.with_outliers) return json;
  json["outliers"] = s.outliers;
  json["top_columns"] = Json::array();
  for (const ColumnPeak& peak : s.top_columns) {
    json["top_columns"].push_back({{"column", peak.column}, {"absmax", peak.absmax}});
  }
  return json;
}

Json quantization_json(const Inspection& inspection) {
  const std::string method = quantization_method(inspection.checkpoint->config());
  if (inspection.tensors == nullptr)
    return {{"method", method}, {"readable", false}, {"reason", inspection.unreadable}};
  if (inspection.tensors->layout() == nullptr) return nullptr;
  Json schemes = Json::array();
  for (const auto& [name, scheme] : inspection.schemes) {
    schemes.push_back({{"scheme", name},
                       {"format", scheme.format},
                       {"linears", scheme.linears},
                       {"weights", scheme.weights},
                       {"bytes", scheme.bytes},
                       {"bits_per_weight", bits_per_weight(scheme)}});
  }
  return {{"method", method},
          {"readable", true},
          {"layout", std::string(inspection.tensors->layout()->name())},
          {"linears", inspection.tensors->linears().size()},
          {"schemes", schemes},
          {"kv_cache", inspection.kv_cache.empty()
                           ? Json()
                           : Json({{"scheme", inspection.kv_cache}, {"attention_modules", inspection.caches}})}};
}

}  // namespace

Json inspect_json(const Inspection& inspection) {
  const ModelConfig& config = inspection.checkpoint->config();
  Json json = {{"model", inspection.checkpoint->location().string()},
               {"architectures", config.architectures},
               {"model_type", config.model_type},
               {"parameters", inspection.parameters},
               {"tensors", inspection.checkpoint->tensors().size()},
               {"bytes", tensor_bytes(inspection)},
               {"dtypes", totals_json(inspection.types)},
               {"modules", totals_json(inspection.classes)},
               {"tied", inspection.tied},
               {"tie_word_embeddings", config.tie_word_embeddings},
               {"quantization", quantization_json(inspection)},
               {"files", Json::array()}};
  for (const CheckpointFile& file : inspection.checkpoint->files()) {
    json["files"].push_back({{"name", file.path.filename().string()}, {"bytes", file.bytes}});
  }
  if (inspection.with_tensors) {
    json["tensor_list"] = Json::array();
    for (const TensorInfo& info : inspection.checkpoint->tensors()) {
      json["tensor_list"].push_back({{"name", info.name},
                                     {"dtype", std::string(dtype_name(info.dtype))},
                                     {"shape", info.shape},
                                     {"bytes", info.bytes}});
    }
  }
  if (inspection.with_statistics) {
    json["statistics"] = Json::array();
    for (const TensorStatistics& s : inspection.statistics)
      json["statistics"].push_back(statistics_json(inspection, s));
    json["problems"] = bad_tensors(inspection);
  }
  return json;
}

std::string inspect_text(const Inspection& inspection) {
  const Checkpoint& checkpoint = *inspection.checkpoint;
  std::vector<std::pair<std::string, std::string>> fields{
      {"model", checkpoint.location().string()},
      {"architecture", architecture(checkpoint.config())},
      {"parameters", human_count(inspection.parameters)},
      {"tensors", fmt::format("{}, {}", checkpoint.tensors().size(), human_bytes(tensor_bytes(inspection)))},
      {"quantization", quantization_text(inspection)}};
  if (!inspection.tied.empty()) {
    fields.emplace_back("tied", fmt::format("{} to the embedding", fmt::join(inspection.tied, ", ")));
  }
  std::string text = field_list(fields);
  text += "\n" + files_text(inspection) + "\n" + totals_text("type", inspection.types) + "\n" +
          totals_text("module class", inspection.classes);
  if (!inspection.schemes.empty()) text += "\n" + schemes_text(inspection);
  if (inspection.with_tensors) text += "\n" + tensors_text(inspection);
  if (inspection.with_statistics) text += "\n" + statistics_text(inspection);
  if (inspection.with_outliers) text += "\n" + outliers_text(inspection);
  return text;
}

std::vector<std::string> bad_tensors(const Inspection& inspection) {
  std::vector<std::string> sentences;
  for (const TensorStatistics& s : inspection.statistics) {
    if (!s.first_bad) continue;
    const LogicalTensor& tensor = inspection.tensors->tensors()[s.tensor];
    const std::string place = tensor.shape.size() < 2 ? fmt::format("element {}", *s.first_bad)
                                                      : fmt::format("row {}, column {}", *s.first_bad / tensor.cols,
                                                                    *s.first_bad % tensor.cols);
    sentences.push_back(fmt::format("'{}' holds {} NaN and {} infinite values; the first is at {}", tensor.name, s.nans,
                                    s.infinities, place));
  }
  return sentences;
}

}  // namespace quant::cli
