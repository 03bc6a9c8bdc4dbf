#include "smoothing/channels.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "quant/error.h"
#include "rtn/parallel_for.h"

namespace quant::smoothing {
namespace {

constexpr std::uint64_t kColumnsPerTask = 256;

void require(bool ok, const SmoothingGroup& group, std::string_view what) {
  if (!ok) throw Error(ErrorCode::internal, fmt::format("smoothing of {}: {}", group.smooth_layer, what));
}

bool fits(const std::vector<float>& part, std::uint64_t count) { return part.empty() || part.size() == count; }

}  // namespace

void check_group(const SmoothingGroup& group, const InputStatistics& inputs) {
  const std::uint64_t cols = inputs.cols;
  require(cols > 0, group, "the inputs have no columns");
  require(group.channel.empty() || group.channel.size() == cols, group, "one channel per column is needed");
  for (const LinearTask& reader : group.balance) {
    require(reader.cols == cols && reader.weight.size() == reader.rows * cols, group,
            fmt::format("{} does not fit the inputs", reader.module));
  }
  require(fits(inputs.absmax, cols) && fits(inputs.minimum, cols) && fits(inputs.maximum, cols) &&
              fits(inputs.mean_abs, cols) && fits(inputs.gram, cols * cols) && inputs.rows.size() % cols == 0,
          group, "statistics of another number of columns");
}

void pool_channels(const SmoothingGroup& group, Pool pool, std::span<double> values) {
  if (group.channel.empty()) return;
  const std::uint32_t channels = *std::max_element(group.channel.begin(), group.channel.end()) + 1U;
  std::vector<double> pooled(channels, 0.0);
  std::vector<std::uint32_t> count(channels, 0);
  for (std::size_t c = 0; c < values.size(); ++c) {
    double& one = pooled[group.channel[c]];
    one = pool == Pool::maximum ? std::max(one, values[c]) : one + values[c];
    ++count[group.channel[c]];
  }
  for (std::size_t c = 0; c < values.size(); ++c) {
    const std::uint32_t channel = group.channel[c];
    values[c] = pool == Pool::maximum ? pooled[channel] : pooled[channel] / count[channel];
  }
}

std::vector<double> column_absmax(const SmoothingGroup& group, int threads) {
  const std::uint64_t cols = group.balance.empty() ? 0 : group.balance.front().cols;
  std::vector<double> result(cols, 0.0);
  const std::uint64_t tasks = (cols + kColumnsPerTask - 1) / kColumnsPerTask;
  rtn::parallel_for(threads, tasks, [&](std::size_t task) {
    const std::uint64_t first = task * kColumnsPerTask;
    const std::uint64_t end = std::min(cols, first + kColumnsPerTask);
    for (const LinearTask& reader : group.balance) {
      if (!reader.quantized) continue;
      for (std::uint64_t r = 0; r < reader.rows; ++r) {
        const float* row = reader.weight.data() + r * cols;
        for (std::uint64_t c = first; c < end; ++c) {
          result[c] = std::max(result[c], static_cast<double>(std::fabs(row[c])));
        }
      }
    }
  });
  return result;
}

}  // namespace quant::smoothing
