#include "report/report_summary.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <string_view>
#include <unordered_map>

namespace quant {

ErrorSums total_errors(const RunReport& report) {
  ErrorSums total;
  for (const LayerReport& layer : report.layers) total += layer.sums;
  return total;
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
