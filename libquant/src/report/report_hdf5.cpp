// Writes a report as HDF5. Groups, attributes and datasets: docs/report.md.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <span>
#include <system_error>

#include "quant/report.h"
#include "report/hdf5_handle.h"
#include "report/report_summary.h"

namespace quant {

namespace {

using report::Hdf5Handle;
using report::Hdf5Session;

template <class T>
hid_t memory_type();
template <>
hid_t memory_type<float>() {
  return H5T_NATIVE_FLOAT;
}
template <>
hid_t memory_type<double>() {
  return H5T_NATIVE_DOUBLE;
}
template <>
hid_t memory_type<std::uint64_t>() {
  return H5T_NATIVE_UINT64;
}

// Types in the file do not depend on the machine.
hid_t file_type(hid_t memory) {
  if (memory == H5T_NATIVE_FLOAT) return H5T_IEEE_F32LE;
  if (memory == H5T_NATIVE_DOUBLE) return H5T_IEEE_F64LE;
  if (memory == H5T_NATIVE_UINT64) return H5T_STD_U64LE;
  return memory;
}

class Writer {
 public:
  explicit Writer(const Hdf5Session& session) : session_(session), text_type_(make_text_type()) {}

  Hdf5Handle make_file() const {
    const Hdf5Handle access = session_.need(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "prepare the file");
    session_.need(H5Pset_fapl_core(access.get(), 1 << 20, false), "prepare the file");
    const Hdf5Handle creation = make_group_plist(H5P_FILE_CREATE);
    return session_.need(H5Fcreate("report.h5", H5F_ACC_TRUNC, creation.get(), access.get()), H5Fclose,
                         "make the file");
  }

  Hdf5Handle make_group(hid_t parent, const std::string& name) const {
    const Hdf5Handle creation = make_group_plist(H5P_GROUP_CREATE);
    return session_.need(H5Gcreate2(parent, name.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT), H5Gclose,
                         "make the group '" + name + "'");
  }

  void attribute(hid_t object, const char* name, const std::string& value) const {
    const char* text = value.c_str();
    const Hdf5Handle space = session_.need(H5Screate(H5S_SCALAR), H5Sclose, action(name));
    put_attribute(object, name, text_type_.get(), space.get(), &text);
  }

  template <class T>
  void attribute(hid_t object, const char* name, T value) const {
    const Hdf5Handle space = session_.need(H5Screate(H5S_SCALAR), H5Sclose, action(name));
    put_attribute(object, name, memory_type<T>(), space.get(), &value);
  }

  void attribute(hid_t object, const char* name, const Shape& values) const {
    const Hdf5Handle space = line(values.size(), name);
    put_attribute(object, name, memory_type<std::uint64_t>(), space.get(), values.empty() ? nullptr : values.data());
  }

  void attribute(hid_t object, const char* name, const std::vector<std::string>& values) const {
    const std::vector<const char*> texts = pointers(values);
    const Hdf5Handle space = line(values.size(), name);
    put_attribute(object, name, text_type_.get(), space.get(), values.empty() ? nullptr : texts.data());
  }

  template <class T>
  void dataset(hid_t parent, const char* name, std::span<const T> values) const {
    put_dataset(parent, name, memory_type<T>(), values.size(), values.data(), true);
  }

  void dataset(hid_t parent, const char* name, const std::vector<std::string>& values) const {
    const std::vector<const char*> texts = pointers(values);
    put_dataset(parent, name, text_type_.get(), values.size(), texts.data(), false);
  }

 private:
  static std::string action(const char* name) { return std::string("write '") + name + "'"; }

  static std::vector<const char*> pointers(const std::vector<std::string>& values) {
    std::vector<const char*> texts;
    for (const std::string& value : values) texts.push_back(value.c_str());
    return texts;
  }

  Hdf5Handle make_text_type() const {
    Hdf5Handle type = session_.need(H5Tcopy(H5T_C_S1), H5Tclose, "make the text type");
    session_.need(H5Tset_size(type.get(), H5T_VARIABLE), "make the text type");
    session_.need(H5Tset_cset(type.get(), H5T_CSET_UTF8), "make the text type");
    return type;
  }

  // Members keep the order in which they were made; no time stamps, so that equal reports are equal bytes.
  Hdf5Handle make_group_plist(hid_t kind) const {
    Hdf5Handle creation = session_.need(H5Pcreate(kind), H5Pclose, "prepare a group");
    session_.need(H5Pset_obj_track_times(creation.get(), false), "prepare a group");
    session_.need(H5Pset_link_creation_order(creation.get(), H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED),
                  "prepare a group");
    return creation;
  }

  Hdf5Handle line(std::size_t size, const char* name) const {
    const hsize_t extent = size;
    return session_.need(H5Screate_simple(1, &extent, nullptr), H5Sclose, action(name));
  }

  // An attribute of no elements has no data to write.
  void put_attribute(hid_t object, const char* name, hid_t type, hid_t space, const void* data) const {
    const Hdf5Handle attribute = session_.need(
        H5Acreate2(object, name, file_type(type), space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, action(name));
    if (data != nullptr) session_.need(H5Awrite(attribute.get(), type, data), action(name));
  }

  void put_dataset(hid_t parent, const char* name, hid_t type, std::size_t size, const void* data, bool packed) const {
    constexpr hsize_t kMaxChunk = 1 << 16;
    const Hdf5Handle creation = session_.need(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, action(name));
    session_.need(H5Pset_obj_track_times(creation.get(), false), action(name));
    if (packed && size > 0) {
      const hsize_t chunk = std::min<hsize_t>(size, kMaxChunk);
      session_.need(H5Pset_chunk(creation.get(), 1, &chunk), action(name));
      session_.need(H5Pset_shuffle(creation.get()), action(name));
      session_.need(H5Pset_deflate(creation.get(), 1), action(name));
    }
    const Hdf5Handle space = line(size, name);
    const Hdf5Handle dataset =
        session_.need(H5Dcreate2(parent, name, file_type(type), space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT),
                      H5Dclose, action(name));
    if (size > 0) session_.need(H5Dwrite(dataset.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), action(name));
  }

  const Hdf5Session& session_;
  Hdf5Handle text_type_;
};

void write_root(const Writer& writer, hid_t root, const RunReport& report) {
  writer.attribute(root, "schema_version", std::uint64_t{kReportSchemaVersion});
  writer.attribute(root, "tool_version", report.tool_version);
  writer.attribute(root, "architecture", report.architecture);
  writer.attribute(root, "recipe_name", report.recipe_name);
  writer.attribute(root, "recipe_text", report.recipe_text);
  writer.attribute(root, "plan_identity", report.plan_identity);
  writer.attribute(root, "layout", report.layout);
  writer.attribute(root, "parameters", report.parameters);
  writer.attribute(root, "bytes_before", report.bytes_before);
  writer.attribute(root, "bytes_after", report.bytes_after);
  writer.attribute(root, "bits_per_weight", report.bits_per_weight);
  writer.attribute(root, "model_bits_per_parameter", report.model_bits_per_parameter);
  writer.attribute(root, "warnings", report.warnings);
}

void write_calibration(const Writer& writer, hid_t root, const CalibrationReport& calibration) {
  const Hdf5Handle group = writer.make_group(root, "calibration");
  const hid_t id = group.get();
  writer.attribute(id, "source", calibration.source);
  writer.attribute(id, "hash", calibration.hash);
  writer.attribute(id, "sequences", calibration.sequences);
  writer.attribute(id, "tokens", calibration.tokens);
  writer.attribute(id, "longest", calibration.longest);
  writer.attribute(id, "product", calibration.product);
  std::vector<std::string> names;
  std::vector<double> errors;
  for (const BlockReport& block : calibration.blocks) {
    names.push_back(block.name);
    errors.push_back(block.output ? summarize(*block.output).nmse : std::numeric_limits<double>::quiet_NaN());
  }
  if (const auto& statistics = calibration.statistics) {
    writer.attribute(id, "statistics_data", statistics->data);
    writer.attribute(id, "statistics_data_hash", statistics->data_hash);
    writer.attribute(id, "statistics_tool_version", statistics->tool_version);
  }
  if (calibration.unquantized_inputs) writer.attribute(id, "inputs", std::string("unquantized"));
  writer.dataset(id, "block", names);
  writer.dataset(id, "block_output_error", std::span<const double>(errors));
}

void write_estimate(const Writer& writer, hid_t object, const std::string& name, const Estimate& estimate) {
  writer.attribute(object, name.c_str(), estimate.mean);
  writer.attribute(object, (name + "_error").c_str(), estimate.error);
}

void write_model(const Writer& writer, hid_t root, const char* name, const EvaluatedAs& as, const Estimate& perplexity,
                 const Estimate& nats, double bits_per_byte) {
  const Hdf5Handle group = writer.make_group(root, name);
  writer.attribute(group.get(), "weights", as.weights);
  writer.attribute(group.get(), "activations", as.activations);
  writer.attribute(group.get(), "kv_cache", as.kv_cache);
  write_estimate(writer, group.get(), "perplexity", perplexity);
  write_estimate(writer, group.get(), "nats_per_token", nats);
  writer.attribute(group.get(), "bits_per_byte", bits_per_byte);
}

void write_divergence(const Writer& writer, hid_t object, const BaseComparison& base) {
  const Divergence& d = base.divergence;
  write_estimate(writer, object, "increase", base.increase);
  write_estimate(writer, object, "nats_increase", base.nats_increase);
  write_estimate(writer, object, "kl_divergence", d.mean);
  writer.attribute(object, "kl_divergence_median", d.median);
  writer.attribute(object, "kl_divergence_percent_90", d.percent90);
  writer.attribute(object, "kl_divergence_percent_99", d.percent99);
  writer.attribute(object, "kl_divergence_percent_99_9", d.percent999);
  writer.attribute(object, "kl_divergence_maximum", d.maximum);
  write_estimate(writer, object, "same_top_token", base.same_top);
  write_estimate(writer, object, "top5_overlap", base.top5);
}

void write_evaluation(const Writer& writer, hid_t root, const EvaluationReport& evaluation) {
  const EvalResult& result = evaluation.result;
  const Hdf5Handle group = writer.make_group(root, "evaluation");
  const hid_t id = group.get();
  writer.attribute(id, "source", evaluation.source);
  writer.attribute(id, "hash", evaluation.hash);
  writer.attribute(id, "windows", result.windows);
  writer.attribute(id, "window_length", evaluation.window_length);
  writer.attribute(id, "predictions", result.predictions);
  writer.attribute(id, "text_bytes", evaluation.text_bytes);
  writer.attribute(id, "product", evaluation.product);
  if (evaluation.first_token) {
    writer.attribute(id, "first_token", static_cast<std::uint64_t>(*evaluation.first_token));
  }
  write_model(writer, id, "model", evaluation.model, result.perplexity, result.nats,
              evaluation.bits_per_byte(result.nats.mean));
  if (result.base) {
    const BaseComparison& base = *result.base;
    write_model(writer, id, "base", evaluation.base.value_or(EvaluatedAs{}), base.perplexity, base.nats,
                evaluation.bits_per_byte(base.nats.mean));
    write_divergence(writer, id, base);
  }
  writer.dataset(id, "window_nats", std::span<const double>(result.window_nats));
}

void write_record(const Writer& writer, hid_t object, const CalibrationRecord& record) {
  writer.attribute(object, "tokens", record.tokens);
  writer.attribute(object, "damping", record.damping);
  writer.attribute(object, "fallback", record.fallback);
  if (!record.output) return;
  const WeightMetrics metrics = summarize(*record.output);
  writer.attribute(object, "output_error", metrics.nmse);
  writer.attribute(object, "output_sqnr_db", metrics.sqnr_db);
  writer.attribute(object, "output_cosine", metrics.cosine);
}

void write_metrics(const Writer& writer, hid_t object, const ErrorSums& sums) {
  const WeightMetrics metrics = summarize(sums);
  writer.attribute(object, "nmse", metrics.nmse);
  writer.attribute(object, "sqnr_db", metrics.sqnr_db);
  writer.attribute(object, "cosine", metrics.cosine);
  writer.attribute(object, "rmse", metrics.rmse);
  writer.attribute(object, "max_abs_error", metrics.max_abs_error);
  writer.attribute(object, "clipped_fraction", metrics.clipped_fraction);
  writer.attribute(object, "zero_fraction", metrics.zero_fraction);
  writer.attribute(object, "weights", sums.count);
}

void write_layer(const Writer& writer, hid_t layers, const LayerReport& layer) {
  const Hdf5Handle group = writer.make_group(layers, report::hdf5_link_name(layer.module));
  const hid_t id = group.get();
  writer.attribute(id, "module", layer.module);
  writer.attribute(id, "shape", layer.shape);
  writer.attribute(id, "dtype", layer.dtype);
  writer.attribute(id, "rule", layer.rule);
  writer.attribute(id, "modifier", layer.modifier);
  writer.attribute(id, "algorithm", layer.algorithm);
  writer.attribute(id, "scheme", layer.scheme);
  writer.attribute(id, "format", layer.format);
  writer.attribute(id, "bits_per_weight", layer.bits_per_weight);
  writer.attribute(id, "bytes_before", layer.bytes_before);
  writer.attribute(id, "bytes_after", layer.bytes_after);
  writer.attribute(id, "scale_min", layer.scale_min);
  writer.attribute(id, "scale_max", layer.scale_max);
  writer.attribute(id, "notes", layer.notes);
  write_metrics(writer, id, layer.sums);
  if (layer.calibration) write_record(writer, id, *layer.calibration);
  if (layer.sparsity) {
    writer.attribute(id, "sparsity_modifiers", layer.sparsity->modifiers);
    writer.attribute(id, "sparsity_pattern", layer.sparsity->pattern);
    writer.attribute(id, "sparsity_keep", std::uint64_t{layer.sparsity->keep});
    writer.attribute(id, "sparsity_of", std::uint64_t{layer.sparsity->of});
    writer.attribute(id, "sparsity_violations", layer.sparsity->violations);
  }
  if (!layer.row_nmse.empty()) writer.dataset(id, "row_nmse", std::span<const float>(layer.row_nmse));
  if (!layer.group_nmse.empty()) writer.dataset(id, "group_nmse", std::span<const float>(layer.group_nmse));
}

// One column of the summary table; `value` takes a layer.
template <class Value>
void write_column(const Writer& writer, hid_t group, const char* name, const RunReport& report, Value value) {
  using Element = decltype(value(report.layers.front()));
  std::vector<Element> column;
  for (const LayerReport& layer : report.layers) column.push_back(value(layer));
  if constexpr (std::is_same_v<Element, std::string>) {
    writer.dataset(group, name, column);
  } else {
    writer.dataset(group, name, std::span<const Element>(column));
  }
}

void write_summary(const Writer& writer, hid_t root, const RunReport& report) {
  const Hdf5Handle group = writer.make_group(root, "summary");
  const auto column = [&](const char* name, auto value) { write_column(writer, group.get(), name, report, value); };
  const auto metric = [&](const char* name, double WeightMetrics::*member) {
    column(name, [member](const LayerReport& layer) { return summarize(layer.sums).*member; });
  };
  column("module", [](const LayerReport& layer) { return layer.module; });
  const report::Grouping grouping = report::group_layers(report);
  std::vector<std::string> kinds;
  for (const report::Place& place : grouping.places) kinds.push_back(grouping.kinds[place.kind].label);
  writer.dataset(group.get(), "kind", kinds);
  column("scheme", [](const LayerReport& layer) { return layer.scheme; });
  column("algorithm", [](const LayerReport& layer) { return layer.algorithm; });
  column("weights", [](const LayerReport& layer) { return layer.sums.count; });
  column("bits_per_weight", [](const LayerReport& layer) { return layer.bits_per_weight; });
  column("bytes_before", [](const LayerReport& layer) { return layer.bytes_before; });
  column("bytes_after", [](const LayerReport& layer) { return layer.bytes_after; });
  metric("nmse", &WeightMetrics::nmse);
  metric("sqnr_db", &WeightMetrics::sqnr_db);
  metric("cosine", &WeightMetrics::cosine);
  metric("rmse", &WeightMetrics::rmse);
  metric("max_abs_error", &WeightMetrics::max_abs_error);
  metric("clipped_fraction", &WeightMetrics::clipped_fraction);
  metric("zero_fraction", &WeightMetrics::zero_fraction);
  if (!report.calibration) return;
  column("output_error", [](const LayerReport& layer) {
    const bool known = layer.calibration && layer.calibration->output;
    return known ? summarize(*layer.calibration->output).nmse : std::numeric_limits<double>::quiet_NaN();
  });
}

// The whole file as bytes: HDF5 recovers badly from a full disk, a stream does not.
std::vector<char> make_image(const RunReport& report, const std::string& name) {
  const Hdf5Session session(name, ErrorCode::io);
  const Writer writer(session);
  const Hdf5Handle file = writer.make_file();
  write_root(writer, file.get(), report);
  {
    const Hdf5Handle layers = writer.make_group(file.get(), "layers");
    for (const LayerReport& layer : report.layers) write_layer(writer, layers.get(), layer);
  }
  write_summary(writer, file.get(), report);
  if (report.calibration) write_calibration(writer, file.get(), *report.calibration);
  if (report.evaluation) write_evaluation(writer, file.get(), *report.evaluation);
  session.need(H5Fflush(file.get(), H5F_SCOPE_GLOBAL), "finish the file");
  const ssize_t size = session.need(H5Fget_file_image(file.get(), nullptr, 0), "finish the file");
  std::vector<char> image(static_cast<std::size_t>(size));
  session.need(H5Fget_file_image(file.get(), image.data(), image.size()), "finish the file");
  return image;
}

}  // namespace

void write_report_hdf5(const RunReport& report, const std::filesystem::path& path) {
  const std::vector<char> image = make_image(report, path.string());
  std::filesystem::path partial = path;
  partial += ".partial";
  const auto fail = [&](const std::string& reason) {
    std::error_code ignored;
    std::filesystem::remove(partial, ignored);
    throw Error(
        ErrorCode::io, path.string() + ": cannot write the report (" + reason + ")",
        "Check that the directory exists, is writable and has " + std::to_string(image.size()) + " bytes free.");
  };
  errno = 0;
  std::ofstream out(partial, std::ios::binary | std::ios::trunc);
  out.write(image.data(), static_cast<std::streamsize>(image.size()));
  out.close();
  if (!out) fail(std::strerror(errno));
  std::error_code error;
  std::filesystem::rename(partial, path, error);
  if (error) fail(error.message());
}

}  // namespace quant
