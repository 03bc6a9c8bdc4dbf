#include "quant/scale_codes.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace quant {
namespace {

// For each power of ten from 1e-6 to 1, the middles of 2^i equal parts of 0.1..1, with both signs; then 0 and 1.
std::array<float, 256> make_map() {
  std::array<float, 256> map{};
  std::size_t count = 0;
  for (int i = 0; i < 7; ++i) {
    const int parts = 1 << i;
    const auto power = static_cast<float>(std::pow(10.0, i - 6));
    const auto edge = [&](int k) {
      // torch.linspace: from the nearer end.
      const float step = (1.0F - 0.1F) / static_cast<float>(parts);
      return k < (parts + 1) / 2 ? 0.1F + step * static_cast<float>(k) : 1.0F - step * static_cast<float>(parts - k);
    };
    for (int k = 0; k < parts; ++k) {
      const float middle = (edge(k) + edge(k + 1)) / 2.0F;
      map[count++] = power * middle;
      map[count++] = -(power * middle);
    }
  }
  map[count++] = 0.0F;
  map[count++] = 1.0F;
  std::sort(map.begin(), map.end());
  return map;
}

}  // namespace

std::span<const float> dynamic_scale_map() {
  static const std::array<float, 256> map = make_map();
  return map;
}

void code_scales(std::span<const float> scales, float offset, CodedScales& out) {
  const auto map = dynamic_scale_map();
  out.map.assign(map.begin(), map.end());
  out.offset = offset;
  out.codes.resize(scales.size());
  out.scales.resize((scales.size() + CodedScales::kBlock - 1) / CodedScales::kBlock);
  for (std::size_t b = 0; b < out.scales.size(); ++b) {
    const std::size_t first = b * CodedScales::kBlock;
    const auto block = scales.subspan(first, std::min<std::size_t>(CodedScales::kBlock, scales.size() - first));
    float largest = 0;
    for (const float scale : block) largest = std::max(largest, std::fabs(scale - offset));
    out.scales[b] = largest;
    const float inverse = 1.0F / largest;
    for (std::size_t i = 0; i < block.size(); ++i) {
      const float value = largest > 0 ? (block[i] - offset) * inverse : 0.0F;
      const auto above = std::lower_bound(map.begin(), map.end(), value);
      auto code = static_cast<std::size_t>(above - map.begin());
      if (code == map.size() || (code > 0 && value - map[code - 1] <= map[code] - value)) code -= 1;
      out.codes[first + i] = static_cast<std::uint8_t>(code);
    }
  }
}

}  // namespace quant
