#include "report/report_summary.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <numeric>
#include <string_view>
#include <unordered_map>
#include <utility>

namespace quant {

ErrorSums total_errors(const RunReport& report) {
  ErrorSums total;
  for (const LayerReport& layer : report.layers) total += layer.sums;
  return total;
}

namespace {

double output_error(const LayerReport& layer) { return summarize(*layer.calibration->output).nmse; }

double as_key(double error) { return std::isnan(error) ? std::numeric_limits<double>::infinity() : error; }

// The end of what quantizers and the pipeline say of linears that too few tokens, or none, reached.
bool is_starved(const std::string& reason) { return reason.find("reached it") != std::string::npos; }

std::string fallback_of(const LayerReport& layer) {
  if (layer.calibration && !layer.calibration->fallback.empty()) return layer.calibration->fallback;
  const auto note = std::find_if(layer.notes.begin(), layer.notes.end(), is_starved);
  return note == layer.notes.end() ? std::string() : *note;
}

bool has_output(const LayerReport& layer) { return layer.calibration && layer.calibration->output; }

}  // namespace

std::optional<OutputSummary> output_summary(const RunReport& report) {
  OutputSummary summary;
  double sum = 0;
  for (const LayerReport& layer : report.layers) {
    if (!has_output(layer)) continue;
    ++summary.layers;
    sum += output_error(layer);
    summary.largest = std::max(summary.largest, as_key(output_error(layer)));
  }
  if (summary.layers == 0) return std::nullopt;
  summary.relative_error = sum / static_cast<double>(summary.layers);
  summary.sqnr_db = -10.0 * std::log10(summary.relative_error);
  return summary;
}

std::vector<std::size_t> layers_by_error(const RunReport& report, std::size_t count) {
  std::vector<std::size_t> order(report.layers.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto key = [&](std::size_t i) {
    const LayerReport& layer = report.layers[i];
    const bool measured = has_output(layer);
    return std::pair(measured, as_key(measured ? output_error(layer) : summarize(layer.sums).nmse));
  };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return key(a) > key(b); });
  order.resize(std::min(order.size(), count));
  return order;
}

FallbackSummary fallback_summary(const RunReport& report) {
  constexpr std::size_t kNamed = 3;
  FallbackSummary summary;
  std::string names;
  for (const LayerReport& layer : report.layers) {
    const std::string reason = fallback_of(layer);
    if (reason.empty()) continue;
    if (is_starved(reason)) ++summary.starved;
    if (++summary.layers <= kNamed) names += (names.empty() ? "" : "; ") + layer.module + ": " + reason;
  }
  if (summary.layers == 0) return summary;
  summary.sentence = std::to_string(summary.layers) + (summary.layers == 1 ? " linear" : " linears") + " fell back";
  if (summary.starved > 0)
    summary.sentence += ", " + std::to_string(summary.starved) + " for lack of calibration tokens";
  summary.sentence += ": " + names;
  if (summary.layers > kNamed) summary.sentence += "; and " + std::to_string(summary.layers - kNamed) + " more";
  return summary;
}

}  // namespace quant

namespace quant::report {

namespace {

// Longer ends of a path than this are not tried as a label: a hostile name may have thousands of parts.
constexpr int kMaxLabelParts = 6;

std::optional<std::uint64_t> parse_number(std::string_view part) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
  if (part.empty() || error != std::errc() || end != part.data() + part.size()) return std::nullopt;
  return value;
}

struct ParsedName {
  std::string path;
  std::optional<std::uint64_t> block;
};

ParsedName parse_name(std::string_view name) {
  ParsedName parsed;
  while (true) {
    const std::size_t dot = name.find('.');
    const std::string_view part = name.substr(0, dot);
    if (const auto number = parse_number(part)) {
      if (!parsed.block) parsed.block = number;
    } else {
      if (!parsed.path.empty()) parsed.path += '.';
      parsed.path += part;
    }
    if (dot == std::string_view::npos) return parsed;
    name.remove_prefix(dot + 1);
  }
}

// The last `parts` parts of a path; all of it if it has no more.
std::string_view path_end(std::string_view path, int parts) {
  std::size_t at = std::string_view::npos;
  for (int i = 0; i < parts; ++i) {
    if (at == 0) return path;
    at = path.rfind('.', at == std::string_view::npos ? at : at - 1);
    if (at == std::string_view::npos) return path;
  }
  return path.substr(at + 1);
}

void set_labels(std::vector<Kind>& kinds) {
  std::unordered_map<std::string_view, int> uses;
  for (const Kind& kind : kinds) {
    std::string_view previous;
    for (int parts = 1; parts <= kMaxLabelParts; ++parts) {
      const std::string_view end = path_end(kind.path, parts);
      if (parts > 1 && end.size() == previous.size()) break;
      ++uses[end];
      previous = end;
    }
  }
  for (Kind& kind : kinds) {
    kind.label = kind.path;
    for (int parts = 1; parts <= kMaxLabelParts; ++parts) {
      const std::string_view end = path_end(kind.path, parts);
      if (uses[end] == 1) {
        kind.label = end;
        break;
      }
    }
    if (kind.label.empty()) kind.label = "(unnamed)";
  }
}

}  // namespace

double badness(const ErrorSums& sums) {
  const double nmse = summarize(sums).nmse;
  return std::isnan(nmse) ? std::numeric_limits<double>::infinity() : nmse;
}

Grouping group_layers(const RunReport& report) {
  Grouping grouping;
  std::unordered_map<std::string, std::size_t> index;
  for (std::size_t i = 0; i < report.layers.size(); ++i) {
    const LayerReport& layer = report.layers[i];
    ParsedName name = parse_name(layer.module);
    const auto [found, added] = index.try_emplace(name.path, grouping.kinds.size());
    if (added) {
      grouping.kinds.emplace_back();
      grouping.kinds.back().path = std::move(name.path);
      grouping.kinds.back().worst = i;
    }
    Kind& kind = grouping.kinds[found->second];
    ++kind.layers;
    kind.bytes_before += layer.bytes_before;
    kind.bytes_after += layer.bytes_after;
    kind.sums += layer.sums;
    if (badness(layer.sums) > badness(report.layers[kind.worst].sums)) kind.worst = i;
    grouping.places.push_back({found->second, name.block});
  }
  set_labels(grouping.kinds);
  return grouping;
}

std::vector<std::size_t> worst_layers(const RunReport& report, std::size_t count) {
  std::vector<double> keys(report.layers.size());
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    keys[i] = badness(report.layers[i].sums);
    if (keys[i] > 0) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return keys[a] > keys[b]; });
  if (order.size() > count) order.resize(count);
  return order;
}

}  // namespace quant::report
