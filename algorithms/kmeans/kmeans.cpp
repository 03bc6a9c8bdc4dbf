#include "quant/kmeans.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "kmeans/partition.h"
#include "kmeans/points.h"
#include "quant/error.h"
#include "quant/registry.h"
#include "quant/weight_rows.h"
#include "rtn/parallel_for.h"
#include "shared/checks.h"
#include "shared/row_parts.h"
#include "shared/whole_weight.h"

namespace quant {
namespace {

using kmeans::Joined;
using kmeans::Partitioner;
using kmeans::PointCollector;
using kmeans::Points;

constexpr std::array<std::pair<KMeansMethod, std::string_view>, 3> kMethods{
    {{KMeansMethod::automatic, "auto"}, {KMeansMethod::exact, "exact"}, {KMeansMethod::lloyd, "lloyd"}}};

// Starts of clusters that the exact partition may keep, of four bytes each.
constexpr std::uint64_t kLargestTable = 1U << 26U;
// Weights of a part of the rows that one thread joins.
constexpr std::uint64_t kPart = 1U << 20U;

// Of one unit: what clustering needs, with its memory kept for the next.
struct Scratch {
  PointCollector collector;
  std::vector<Joined> joined;
  Points points;
  Partitioner partitioner;
  std::vector<float> row, thresholds;
};

bool wants_exact(const Points& points, std::uint32_t count, KMeansMethod method) {
  constexpr double kOperationsPerWeight = 1024;
  const bool fits = points.size() <= kLargestTable / count;
  if (method == KMeansMethod::exact && !fits) {
    throw Error(
        ErrorCode::usage,
        fmt::format("the exact partition of {} different values into {} clusters needs a table of {} bytes, of at "
                    "most {}",
                    points.size(), count, 4.0 * static_cast<double>(points.size()) * count, 4 * kLargestTable),
        "use method auto or lloyd, fewer bits, or codebooks of channels or groups");
  }
  if (method != KMeansMethod::automatic) return method == KMeansMethod::exact;
  return fits &&
         kmeans::exact_operations(points.size(), count) <= kOperationsPerWeight * static_cast<double>(points.members);
}

// Ascending means of the clusters of scratch.points.
void cluster(Scratch& scratch, std::uint32_t count, KMeansMethod method, std::vector<double>& means) {
  const Points& points = scratch.points;
  means.clear();
  if (points.size() <= count) {
    means.assign(points.values.begin(), points.values.end());
    return;
  }
  const auto& cuts = wants_exact(points, count, method) ? scratch.partitioner.exact(points, count)
                                                        : scratch.partitioner.lloyd(points, count);
  for (std::uint32_t c = 0; c < count; ++c) means.push_back(points.mean(cuts[c], cuts[c + 1]));
}

// Lloyd's iteration from ascending means of which one stays 0.
void settle_around_zero(const Points& points, std::vector<double>& means) {
  constexpr int kRounds = 200;
  bool changed = true;
  for (int round = 0; round < kRounds && changed; ++round) {
    changed = false;
    const std::vector<double> before = means;
    std::uint64_t first = 0;
    for (std::size_t c = 0; c < means.size(); ++c) {
      std::uint64_t end = points.size();
      if (c + 1 < means.size()) {
        const double middle = (before[c] + before[c + 1]) / 2;
        const auto at = std::upper_bound(points.values.begin(), points.values.end(), middle) - points.values.begin();
        end = std::max(first, static_cast<std::uint64_t>(at));
      }
      if (end > first && before[c] != 0) means[c] = points.mean(first, end);
      changed = changed || means[c] != before[c];
      first = end;
    }
  }
}

// Of scratch.joined. `keep_zeros`: if a value is 0, so is one of the means.
void cluster_joined(Scratch& scratch, std::uint32_t count, KMeansMethod method, bool keep_zeros,
                    std::vector<double>& means) {
  std::vector<Joined>& joined = scratch.joined;
  const auto zero = std::find_if(joined.begin(), joined.end(), [](const Joined& j) { return j.value == 0; });
  if (!keep_zeros || zero == joined.end()) {
    kmeans::make_points(joined, scratch.points);
    return cluster(scratch, count, method, means);
  }
  joined.erase(zero);
  kmeans::make_points(joined, scratch.points);
  means.clear();
  if (scratch.points.size() > 0) cluster(scratch, count - 1, method, means);
  means.insert(std::lower_bound(means.begin(), means.end(), 0.0), 0.0);
  if (scratch.points.size() >= count) settle_around_zero(scratch.points, means);
}

// Entries as they are stored: ascending, the last one repeated where there are fewer than codes.
void round_entries(const std::vector<double>& means, DType type, std::span<float> entries) {
  const float largest = type == DType::F16 ? 65504.0F : std::numeric_limits<float>::max();
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const double mean = means.empty() ? 0.0 : means[std::min(i, means.size() - 1)];
    const float rounded = round_to_dtype(type, static_cast<float>(mean));
    entries[i] = std::isfinite(rounded) ? rounded : std::copysign(largest, rounded);
  }
}

// thresholds[i]: the largest float that is no nearer to entry i + 1 than to entry i.
void find_thresholds(std::span<const float> entries, std::vector<float>& thresholds) {
  thresholds.clear();
  for (std::size_t i = 0; i + 1 < entries.size(); ++i) {
    const double middle = (static_cast<double>(entries[i]) + static_cast<double>(entries[i + 1])) / 2;
    auto threshold = static_cast<float>(middle);
    if (static_cast<double>(threshold) > middle) {
      threshold = std::nextafter(threshold, -std::numeric_limits<float>::infinity());
    }
    thresholds.push_back(threshold);
  }
}

// The number of thresholds below each value. Their number is one less than a power of two.
void assign(std::span<const float> values, const std::vector<float>& thresholds, std::int8_t* codes) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::size_t code = 0;
    for (std::size_t step = (thresholds.size() + 1) / 2; step > 0; step /= 2) {
      code += values[i] > thresholds[code + step - 1] ? step : 0;
    }
    codes[i] = static_cast<std::int8_t>(code);
  }
}

// The different weights of a tensor: parts of the rows side by side, then two neighbours at a time.
std::vector<Joined> join_tensor(const TensorView& weight, const QuantArgs& args, std::span<const float> importance,
                                int threads) {
  auto parts = shared::parts_of_rows<std::vector<Joined>>(
      weight, args, importance, threads, kPart, [](const TensorView& view, std::span<const float> weights) {
        const WeightRows rows(view);
        PointCollector collector;
        std::vector<float> row(rows.cols());
        for (std::uint64_t r = 0; r < rows.rows(); ++r) {
          rows.read(r, 0, row);
          collector.add(row, shared::importance_of(weights, rows.cols(), r, 0, rows.cols()));
        }
        std::vector<Joined> joined;
        collector.join(joined);
        joined.shrink_to_fit();
        return joined;
      });
  while (parts.size() > 1) {
    std::vector<std::vector<Joined>> merged((parts.size() + 1) / 2);
    rtn::parallel_for(threads, merged.size(), [&](std::size_t m) {
      if (2 * m + 1 == parts.size()) {
        merged[m] = std::move(parts[2 * m]);
        return;
      }
      merged[m] = kmeans::merge(parts[2 * m], parts[2 * m + 1]);
      parts[2 * m] = parts[2 * m + 1] = {};
    });
    parts = std::move(merged);
  }
  return parts.empty() ? std::vector<Joined>{} : std::move(parts.front());
}

// How many different ones there may be among `count` values of a type.
std::uint64_t different_values(DType type, std::uint64_t count) {
  return dtype_bits(type) <= 16 ? std::min<std::uint64_t>(count, 1U << 16U) : count;
}

// Of a collector that grew to its size by doubling.
std::uint64_t collected_bytes(std::uint64_t count) { return 2 * count * 2 * sizeof(float); }

// Values, weights and moments.
std::uint64_t point_bytes(std::uint64_t points) { return points * 3 * sizeof(double); }

// Points, two rows of gains, and the exact partition's table.
std::uint64_t cluster_bytes(std::uint64_t points, const QuantArgs& args) {
  const std::uint64_t table = std::min(kLargestTable, points << static_cast<unsigned>(args.num_bits));
  return point_bytes(points) + points * 2 * sizeof(double) + table * sizeof(std::uint32_t);
}

std::optional<std::string> reason_against(const QuantArgs& args) {
  if (!has_learned_codebook(args)) return "k-means makes learned codebooks: type codebook";
  if (args.observer && !args.observer->ends_with("minmax")) {
    return "k-means finds codebooks without ranges; leave the observer '" + *args.observer + "' out";
  }
  switch (args.strategy) {
    case Strategy::tensor:
    case Strategy::channel:
    case Strategy::group:
    case Strategy::block:
      return std::nullopt;
    default:
      return "k-means has codebooks per tensor, channel, group or block, not for strategy " +
             std::string(to_string(args.strategy));
  }
}

// One slice of rows while it is coded.
class SliceCoder {
 public:
  SliceCoder(const TensorView& view, std::span<const float> importance, KMeansMethod method, Scratch& scratch,
             QuantizedTensor& out)
      : rows_(view), importance_(importance), method_(method), scratch_(scratch), out_(out) {}

  void code() {
    const ScaleGrid& grid = out_.grid;
    const std::uint64_t entries = std::uint64_t{1} << static_cast<unsigned>(out_.args.num_bits);
    for (std::uint64_t unit = 0; unit < grid.count(); ++unit) {
      const std::span<float> codebook = std::span(out_.codebook).subspan(unit * entries, entries);
      const Area area = area_of(unit);
      if (out_.args.strategy != Strategy::tensor) learn(area, codebook);
      find_thresholds(codebook, scratch_.thresholds);
      for (std::uint64_t r = area.first_row; r < area.end_row; ++r) {
        assign(read(r, area), scratch_.thresholds, out_.codes.data() + r * out_.cols + area.first_col);
      }
    }
  }

 private:
  struct Area {
    std::uint64_t first_row, end_row, first_col, width;
  };

  Area area_of(std::uint64_t unit) const {
    const ScaleGrid& grid = out_.grid;
    const std::uint64_t row = unit / grid.cols * grid.row_extent, col = unit % grid.cols * grid.col_extent;
    return {row, std::min(out_.rows, row + grid.row_extent), col, std::min(grid.col_extent, out_.cols - col)};
  }
  std::span<const float> read(std::uint64_t row, const Area& area) {
    scratch_.row.resize(area.width);
    rows_.read(row, area.first_col, scratch_.row);
    return scratch_.row;
  }
  void learn(const Area& area, std::span<float> codebook) {
    scratch_.collector.clear();
    for (std::uint64_t r = area.first_row; r < area.end_row; ++r) {
      scratch_.collector.add(read(r, area),
                             shared::importance_of(importance_, out_.cols, r, area.first_col, area.width));
    }
    scratch_.collector.join(scratch_.joined);
    cluster_joined(scratch_, static_cast<std::uint32_t>(codebook.size()), method_, out_.args.keep_zeros, means_);
    round_entries(means_, out_.scale_dtype, codebook);
  }

  WeightRows rows_;
  std::span<const float> importance_;
  KMeansMethod method_;
  Scratch& scratch_;
  QuantizedTensor& out_;
  std::vector<double> means_;
};

class KMeans final : public Quantizer {
 public:
  explicit KMeans(const KMeansOptions& options) : options_(options) {}

  CalibrationNeeds needs() const override {
    CalibrationNeeds needs;
    needs.gram = options_.hessian;
    return needs;
  }
  std::optional<std::string> unsupported(const QuantArgs& weights) const override { return reason_against(weights); }
  bool weighs_each() const override { return true; }

  TensorParams prepare(const TensorView& weight, const QuantArgs& args, std::span<const float> importance,
                       int threads) const override {
    TensorParams params;
    if (args.strategy != Strategy::tensor) return params;
    Scratch scratch;
    scratch.joined = join_tensor(weight, args, importance, threads);
    std::vector<double> means;
    const auto count = std::uint32_t{1} << static_cast<unsigned>(args.num_bits);
    cluster_joined(scratch, count, options_.method, args.keep_zeros, means);
    auto codebook = std::make_shared<std::vector<float>>(count);
    // Rounded once more to the type that each slice stores.
    round_entries(means, DType::F32, *codebook);
    params.codebook = std::move(codebook);
    return params;
  }

  std::uint64_t prepare_bytes(const QuantArgs& args, DType weight, std::uint64_t rows, std::uint64_t cols,
                              int threads) const override {
    if (args.strategy != Strategy::tensor) return 0;
    const std::uint64_t count = rows * cols, parts = count / kPart + 1;
    const std::uint64_t different = different_values(weight, count);
    // Lists of the parts beside collectors; then beside the one that they become; that one beside the points.
    const std::uint64_t lists = std::min(count, parts * different_values(weight, kPart)) * sizeof(Joined);
    const std::uint64_t working =
        collected_bytes(std::min(count, kPart)) + different_values(weight, kPart) * sizeof(Joined);
    const std::uint64_t collectors =
        working * std::min<std::uint64_t>(parts, static_cast<unsigned>(std::max(threads, 1)));
    const std::uint64_t whole = different * sizeof(Joined);
    return std::max(
        {lists + collectors, lists + whole, whole + point_bytes(different), cluster_bytes(different, args)});
  }
  std::uint64_t slice_bytes(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols) const override {
    if (args.strategy == Strategy::tensor) return 0;
    const ScaleGrid grid = scale_grid(args, rows, cols);
    const std::uint64_t count = std::min(rows, grid.row_extent) * std::min(cols, grid.col_extent);
    return collected_bytes(count) + count * sizeof(Joined) + cluster_bytes(count, args);
  }

  void quantize_rows(const TensorView& rows, const QuantArgs& args, DType scale_dtype, const TensorParams& params,
                     std::span<const float> importance, QuantizedTensor& out, SliceErrors errors) const override {
    static thread_local Scratch scratch;  // keeps its memory
    shared::check_importance(importance, rows, true);
    shared::require_finite(rows);
    out.resize(args, rows.rows(), rows.cols());
    out.scale_dtype = scale_dtype;
    if (args.strategy == Strategy::tensor) {
      if (params.codebook == nullptr || params.codebook->size() != out.codebook.size()) {
        throw Error(ErrorCode::usage, "strategy tensor needs the codebook that prepare() finds");
      }
      round_entries({params.codebook->begin(), params.codebook->end()}, scale_dtype, out.codebook);
    }
    if (out.codes.empty()) return;
    SliceCoder(rows, importance, options_.method, scratch, out).code();
    if (errors.wanted()) measure_rows(rows, out, errors);
  }

 private:
  KMeansOptions options_;
};

KMeansOptions options_of(const Parameters& parameters) {
  KMeansOptions options;
  if (const auto method = parameters.find("method"); method != parameters.end()) {
    const auto& name = std::get<std::string>(method->second);
    const auto at = std::find_if(kMethods.begin(), kMethods.end(), [&](const auto& m) { return m.second == name; });
    if (at == kMethods.end()) throw Error(ErrorCode::usage, "method must be auto, exact or lloyd, not '" + name + "'");
    options.method = at->first;
  }
  options.hessian = shared::wants_hessian(parameters);
  return options;
}

}  // namespace

std::string_view to_string(KMeansMethod method) { return kMethods.at(static_cast<std::size_t>(method)).second; }

std::vector<double> kmeans_1d(std::span<const float> values, std::span<const float> weights, std::uint32_t count,
                              KMeansMethod method) {
  const TensorView view = f32_view(values, 1, values.size());
  shared::check_importance(weights, view, true);
  if (count == 0) throw Error(ErrorCode::usage, "k-means needs at least one cluster");
  for (const float value : values) {
    if (!std::isfinite(value)) throw Error(ErrorCode::usage, "k-means of a value that is " + std::to_string(value));
  }
  if (values.size() > std::numeric_limits<std::uint32_t>::max()) {
    throw Error(ErrorCode::usage, fmt::format("k-means of {} values, of at most 2^32 - 1", values.size()));
  }
  Scratch scratch;
  scratch.collector.add(values, weights);
  std::vector<double> means;
  scratch.collector.join(scratch.joined);
  cluster_joined(scratch, count, method, false, means);
  return means;
}

QuantizedTensor kmeans_quantize(const TensorView& weight, QuantArgs args, std::span<const float> importance,
                                const KMeansOptions& options) {
  return shared::quantize_weight(KMeans(options), weight, std::move(args), importance);
}

std::unique_ptr<Quantizer> make_kmeans(const KMeansOptions& options) { return std::make_unique<KMeans>(options); }

void register_kmeans(Registry& registry) {
  using Type = ParameterSpec::Type;
  AlgorithmEntry entry;
  entry.name = "kmeans";
  entry.modifier = "KMeansModifier";
  entry.summary = "codebooks of least (weighted) squared error, by exact one-dimensional k-means";
  entry.source = "Wang and Song 2011 (Ckmeans.1d.dp); Kim et al. 2023, SqueezeLLM (arXiv 2306.07629)";
  entry.parameters = {
      {"method", Type::text, std::string("auto"), "exact, lloyd, or auto: exact where it is affordable"},
      shared::importance_parameter("squared errors")};
  entry.create = [](const Parameters& parameters) -> std::unique_ptr<Algorithm> {
    return make_kmeans(options_of(parameters));
  };
  registry.add(std::move(entry));
}

}  // namespace quant
