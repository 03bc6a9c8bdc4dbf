// quant compare: the difference between two checkpoints.
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "errors.h"
#include "metrics_text.h"
#include "progress.h"
#include "quant/compare.h"
#include "quant/open.h"
#include "session.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

struct CompareCommand {
  std::string a;
  std::string b;
  std::string sort = "nmse";
  std::size_t top = 0;
  std::optional<double> fail_above_nmse;
  bool expect_equal = false;
  int threads = 0;
};

constexpr std::size_t kDefaultRows = 20;

using Tensors = std::vector<const TensorComparison*>;

Tensors sorted(const Comparison& comparison, const std::string& key, bool only_changed) {
  Tensors tensors;
  for (const TensorComparison& tensor : comparison.tensors) {
    if (!only_changed || !tensor.exact()) tensors.push_back(&tensor);
  }
  const auto by = [&](auto value) {
    std::stable_sort(tensors.begin(), tensors.end(),
                     [&](const TensorComparison* a, const TensorComparison* b) { return value(*a) > value(*b); });
  };
  if (key == "nmse" || key == "sqnr") by([](const TensorComparison& t) { return summarize(t.sums).nmse; });
  if (key == "max") by([](const TensorComparison& t) { return t.sums.max_abs_error; });
  if (key == "size") by([](const TensorComparison& t) { return element_count(t.shape); });
  if (key == "name") {
    std::stable_sort(tensors.begin(), tensors.end(),
                     [](const TensorComparison* a, const TensorComparison* b) { return a->name < b->name; });
  }
  return tensors;
}

Json tensor_json(const TensorComparison& tensor) {
  Json json = {{"name", tensor.name},           {"shape", tensor.shape},   {"storage_a", tensor.storage_a},
               {"storage_b", tensor.storage_b}, {"exact", tensor.exact()}, {"differing", tensor.differing}};
  if (!tensor.numeric) return json;
  json["nonfinite_a"] = tensor.nonfinite_a;
  json["nonfinite_b"] = tensor.nonfinite_b;
  json["error"] = metrics_json(tensor.sums);
  return json;
}

Json comparison_json(const CompareCommand& options, const Comparison& comparison) {
  Json json = {{"a", options.a},
               {"b", options.b},
               {"equal", comparison.equal()},
               {"total", metrics_json(comparison.total)},
               {"changed", metrics_json(comparison.changed)},
               {"only_a", comparison.only_a},
               {"only_b", comparison.only_b},
               {"shape_mismatches", Json::array()},
               {"tensors", Json::array()}};
  for (const ShapeMismatch& mismatch : comparison.mismatches) {
    json["shape_mismatches"].push_back(
        {{"name", mismatch.name}, {"shape_a", mismatch.shape_a}, {"shape_b", mismatch.shape_b}});
  }
  Tensors tensors = sorted(comparison, options.sort, false);
  if (options.top > 0) tensors.resize(std::min(tensors.size(), options.top));
  for (const TensorComparison* tensor : tensors) json["tensors"].push_back(tensor_json(*tensor));
  return json;
}

std::string tensors_text(const CompareCommand& options, const Comparison& comparison) {
  Tensors tensors = sorted(comparison, options.sort, true);
  if (tensors.empty()) return {};
  const std::size_t shown = std::min(tensors.size(), options.top > 0 ? options.top : kDefaultRows);
  Table table({{"tensor"},
               {"shape"},
               {"A"},
               {"B"},
               {"SQNR", Table::Align::right},
               {"NMSE", Table::Align::right},
               {"cosine", Table::Align::right},
               {"max error", Table::Align::right},
               {"differing", Table::Align::right}});
  for (std::size_t i = 0; i < shown; ++i) {
    const TensorComparison& t = *tensors[i];
    const WeightMetrics m = summarize(t.sums);
    const std::string differing = percent(t.differing, element_count(t.shape));
    if (t.numeric) {
      table.add({t.name, shape_text(t.shape), t.storage_a, t.storage_b, sqnr_text(m.sqnr_db), nmse_text(m.nmse),
                 fmt::format("{:.6f}", m.cosine), number_text(m.max_abs_error), differing});
    } else {
      table.add({t.name, shape_text(t.shape), t.storage_a, t.storage_b, "", "", "", "", "bytes differ"});
    }
  }
  std::string text = "\n" + table.text();
  if (shown < tensors.size()) text += fmt::format("... and {} more; --top N shows more\n", tensors.size() - shown);
  return text;
}

std::string names_text(const std::string& title, const std::vector<std::string>& names) {
  if (names.empty()) return {};
  std::string text = fmt::format("\n{} ({}):\n", title, names.size());
  for (const std::string& name : names) text += "  " + printable(name) + "\n";
  return text;
}

std::string mismatches_text(const Comparison& comparison) {
  if (comparison.mismatches.empty()) return {};
  Table table({{"different shapes"}, {"A"}, {"B"}});
  for (const ShapeMismatch& m : comparison.mismatches)
    table.add({m.name, shape_text(m.shape_a), shape_text(m.shape_b)});
  return "\n" + table.text();
}

std::string errors_text(const ErrorSums& sums) {
  const WeightMetrics m = summarize(sums);
  return fmt::format("{} weights, SQNR {}, NMSE {}, cosine {:.6f}, max error {}", human_count(sums.count),
                     sqnr_text(m.sqnr_db), nmse_text(m.nmse), m.cosine, number_text(m.max_abs_error));
}

std::string nonfinite_text(const Comparison& comparison) {
  std::string text;
  for (const TensorComparison& t : comparison.tensors) {
    if (t.nonfinite_a + t.nonfinite_b == 0) continue;
    text += fmt::format("warning: '{}' holds NaN or infinite values (A: {}, B: {}), left out of the error\n",
                        printable(t.name), t.nonfinite_a, t.nonfinite_b);
  }
  return text;
}

std::string comparison_text(const CompareCommand& options, const Comparison& comparison) {
  const auto exact = std::count_if(comparison.tensors.begin(), comparison.tensors.end(),
                                   [](const TensorComparison& t) { return t.exact(); });
  std::vector<std::pair<std::string, std::string>> fields{
      {"A", options.a},
      {"B", options.b},
      {"tensors",
       fmt::format("{} in both, {} exactly equal", comparison.tensors.size() + comparison.mismatches.size(), exact)},
      {"all", errors_text(comparison.total)}};
  if (comparison.changed.count > 0) fields.emplace_back("changed", errors_text(comparison.changed));
  if (comparison.equal()) fields.emplace_back("result", "equal");
  return field_list(fields) + nonfinite_text(comparison) + tensors_text(options, comparison) +
         mismatches_text(comparison) + names_text("only in A", comparison.only_a) +
         names_text("only in B", comparison.only_b);
}

int compare_command(const CompareCommand& options, Session& session) {
  const auto a = open_checkpoint(options.a);
  const auto b = open_checkpoint(options.b);
  ProgressLine line("comparing", false);
  const Comparison comparison = compare_checkpoints(*a, *b, session.registry, scan_options(line, options.threads));
  line.clear();
  write_stdout(session.json ? json_text(comparison_json(options, comparison)) : comparison_text(options, comparison));
  if (options.expect_equal && !comparison.equal()) return kExitFinding;
  // Written so that a NaN counts as too large.
  if (options.fail_above_nmse && !(summarize(comparison.total).nmse <= *options.fail_above_nmse)) return kExitFinding;
  return kExitOk;
}

}  // namespace

void add_compare(CLI::App& program, Session& session) {
  const auto options = std::make_shared<CompareCommand>();
  CLI::App* command =
      add_command(program, session, "compare", "Compare two checkpoints, quantized or not",
                  "quant compare examples/tiny-llama-novels tiny-w4a16 --top 5", options, compare_command);
  command->add_option("A", options->a, "The reference: directory, .safetensors or .h5 file")->required();
  command->add_option("B", options->b, "The other one")->required();
  command->add_option("--sort", options->sort, "nmse or sqnr (worst first), max, size, name, or order of A")
      ->check(CLI::IsMember({"nmse", "sqnr", "max", "size", "name", "order"}))
      ->type_name("KEY")
      ->capture_default_str();
  command->add_option("--top", options->top, "Show only the first N tensors (20 in text, all in JSON)")
      ->type_name("N")
      ->check(CLI::Range(1, 1000000));
  command->add_option("--fail-above-nmse", options->fail_above_nmse, "Exit with 1 if the NMSE of all weights is larger")
      ->type_name("X")
      ->check(CLI::Range(0.0, 1e9));
  command->add_flag("--expect-equal", options->expect_equal, "Exit with 1 unless names, shapes and values are equal");
  add_threads_option(*command, options->threads);
}

}  // namespace quant::cli
