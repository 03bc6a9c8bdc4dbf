// quant report: shows and converts the report of a finished output.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "errors.h"
#include "eval_text.h"
#include "metrics_text.h"
#include "quant/report.h"
#include "report_fields.h"
#include "report_file.h"
#include "session.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

namespace fs = std::filesystem;

struct ReportCommand {
  std::string directory;
  std::string format = "text";
  std::string output;
  std::string sort = "order";
  std::size_t top = 0;
};

fs::path report_file(const std::string& given) {
  fs::path path = given;
  if (fs::is_regular_file(path)) return path;
  if (!fs::exists(path)) throw Error(ErrorCode::io, fmt::format("{} does not exist", given));
  if (fs::exists(path / "report.json")) return path / "report.json";
  throw Error(ErrorCode::io, fmt::format("{} holds no report.json", given), "name the output of 'quant run'",
              "NoReport");
}

void sort_layers(RunReport& report, const std::string& key) {
  if (key == "order") return;
  const auto by = [&](auto less) { std::stable_sort(report.layers.begin(), report.layers.end(), less); };
  if (key == "name") {
    by([](const LayerReport& a, const LayerReport& b) { return a.module < b.module; });
  } else if (key == "size") {
    by([](const LayerReport& a, const LayerReport& b) { return a.bytes_after > b.bytes_after; });
  } else if (key == "output") {  // layers without one at the end
    std::vector<LayerReport> sorted;
    for (const std::size_t i : layers_by_error(report, report.layers.size())) {
      sorted.push_back(std::move(report.layers[i]));
    }
    report.layers = std::move(sorted);
  } else {  // the worst first: SQNR falls as NMSE grows
    by([](const LayerReport& a, const LayerReport& b) { return summarize(a.sums).nmse > summarize(b.sums).nmse; });
  }
}

std::string output_error_text(const LayerReport& layer) {
  if (!layer.calibration || !layer.calibration->output) return "";
  return nmse_text(summarize(*layer.calibration->output).nmse);
}

std::string layers_text(const RunReport& report) {
  std::vector<Table::Column> columns = {{"layer"},
                                        {"shape"},
                                        {"scheme"},
                                        {"bits/weight", Table::Align::right},
                                        {"SQNR", Table::Align::right},
                                        {"NMSE", Table::Align::right},
                                        {"cosine", Table::Align::right},
                                        {"max error", Table::Align::right},
                                        {"clipped", Table::Align::right},
                                        {"zeros", Table::Align::right}};
  if (report.calibration) columns.push_back({"output error", Table::Align::right});
  Table table(std::move(columns));
  for (const LayerReport& layer : report.layers) {
    const WeightMetrics m = summarize(layer.sums);
    std::vector<std::string> row = {layer.module,
                                    shape_text(layer.shape),
                                    layer.scheme,
                                    fmt::format("{:.3f}", layer.bits_per_weight),
                                    sqnr_text(m.sqnr_db),
                                    nmse_text(m.nmse),
                                    fmt::format("{:.6f}", m.cosine),
                                    number_text(m.max_abs_error),
                                    percent(layer.sums.clipped, layer.sums.count),
                                    percent(layer.sums.zeros, layer.sums.count)};
    if (report.calibration) row.push_back(output_error_text(layer));
    table.add(row);
  }
  return table.text();
}

std::string report_text(const RunReport& report, std::size_t all_layers) {
  std::vector<std::pair<std::string, std::string>> fields = {
      {"model", fmt::format("{} ({})", report.model, report.architecture)},
      {"recipe", report.recipe_name},
      {"layout", report.layout},
      {"size", fmt::format("{} -> {} ({} of it)", human_bytes(report.bytes_before), human_bytes(report.bytes_after),
                           percent(report.bytes_after, report.bytes_before))},
      {"bits", fmt::format("{:.3f} per quantized weight, {:.3f} per parameter", report.bits_per_weight,
                           report.model_bits_per_parameter)},
      {"layers", fmt::format("{} compressed, {} tensors copied", all_layers, report.skipped.size())}};
  const auto errors = error_fields(report);
  fields.insert(fields.end(), errors.begin(), errors.end());
  fields.emplace_back(
      "made", fmt::format("{}, {}, quant {}", report.started, human_seconds(report.seconds), report.tool_version));
  if (report.evaluation) {
    const auto evaluation = evaluation_fields(*report.evaluation);
    fields.insert(fields.end(), evaluation.begin(), evaluation.end());
  }
  std::string text = field_list(fields);
  for (const std::string& warning : report.warnings) text += "warning: " + printable(warning) + "\n";
  if (!report.layers.empty()) text += "\n" + layers_text(report);
  return text;
}

void emit(const ReportCommand& options, const std::string& text) {
  if (options.output.empty()) {
    write_stdout(text);
  } else {
    write_file(options.output, text);
  }
}

void write_hdf5(const ReportCommand& options, const RunReport& report) {
  const fs::path temporary = temporary_beside(options.output);
  try {
    write_report_hdf5(report, temporary);
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
  rename_file(temporary, options.output);
}

void check_options(const ReportCommand& options, const std::string& format) {
  if (format == "h5" && options.output.empty()) {
    throw Error(ErrorCode::usage, "HDF5 cannot be written to standard output", "give --output FILE");
  }
  if (options.top > 0 && format != "text" && format != "csv") {
    throw Error(ErrorCode::usage, fmt::format("--top is for text and csv: a {} report holds all layers", format));
  }
}

int report_command(const ReportCommand& options, Session& session) {
  const std::string format = session.json ? "json" : options.format;
  if (session.json && options.format != "text" && options.format != "json") {
    throw Error(ErrorCode::usage, fmt::format("--json and --format {} exclude each other", options.format));
  }
  check_options(options, format);
  RunReport report = load_report(report_file(options.directory), format == "html" || format == "h5");
  const std::size_t all_layers = report.layers.size();
  sort_layers(report, options.sort);
  if (options.top > 0) {
    // The totals at the top of the text are those of all layers.
    RunReport shown = report;
    shown.layers.resize(std::min(shown.layers.size(), options.top));
    if (format == "csv") {
      emit(options, report_to_csv(shown));
      return kExitOk;
    }
    std::string text = report_text(report, all_layers);
    const std::size_t table = text.find("\n\n");
    emit(options, text.substr(0, table == std::string::npos ? text.size() : table + 2) + layers_text(shown));
    return kExitOk;
  }
  if (format == "h5") {
    write_hdf5(options, report);
  } else {
    emit(options, format == "json"   ? report_to_json(report)
                  : format == "html" ? report_to_html(report)
                  : format == "csv"  ? report_to_csv(report)
                                     : report_text(report, all_layers));
  }
  return kExitOk;
}

}  // namespace

void add_report(CLI::App& program, Session& session) {
  const auto options = std::make_shared<ReportCommand>();
  CLI::App* command = add_command(program, session, "report", "Show or convert the report of a compressed checkpoint",
                                  "quant report tiny-w4a16 --sort sqnr --top 10", options, report_command);
  command->add_option("DIR", options->directory, "Output of 'quant run', or a report.json")->required();
  command->add_option("--format", options->format, "text, json, html, csv or h5")
      ->check(CLI::IsMember({"text", "json", "html", "csv", "h5"}))
      ->type_name("FORMAT")
      ->capture_default_str();
  command->add_option("--output", options->output, "File to write (replaced if it exists) instead of standard output")
      ->type_name("FILE");
  command
      ->add_option("--sort", options->sort,
                   "sqnr, nmse, or output error (worst first), size (largest first), name, or order of the model")
      ->check(CLI::IsMember({"sqnr", "nmse", "output", "size", "name", "order"}))
      ->type_name("KEY")
      ->capture_default_str();
  command->add_option("--top", options->top, "Show only the first N layers")
      ->type_name("N")
      ->check(CLI::Range(1, 1000000));
}

}  // namespace quant::cli
