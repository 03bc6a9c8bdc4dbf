#include "layouts/gptq/find_linears.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include "layouts/stored/tensor_parts.h"
#include "layouts/stored/transposed.h"
#include "packing/pack_bits.h"
#include "quant/error.h"

namespace quant::gptq_layout {
namespace {

constexpr std::string_view kCodes = ".qweight";

/// One module while its tensors are checked.
struct Inspector {
  const Checkpoint& checkpoint;
  const Label& label;
  const TensorInfo& codes;
  std::string module;

  StoredLinear inspect() const;

 private:
  const TensorInfo& need(std::string_view suffix, std::initializer_list<DType> types) const {
    return stored::need_tensor(checkpoint, module + std::string(suffix), types, nullptr);
  }
  const TensorInfo& need_matrix(std::string_view suffix, std::initializer_list<DType> types) const;
  std::optional<std::uint64_t> columns(unsigned bits, std::uint64_t rows, const TensorInfo& zeros,
                                       const TensorInfo* index) const;
  void find_size(StoredLinear& linear, const TensorInfo& zeros, const TensorInfo* index) const;
  bool all_zeros_are(int value, const StoredLinear& linear, const TensorInfo& zeros) const;
  void find_zero_points(StoredLinear& linear, const TensorInfo& zeros) const;
  void find_order(StoredLinear& linear, const TensorInfo& index, std::uint64_t group) const;
};

const TensorInfo& Inspector::need_matrix(std::string_view suffix, std::initializer_list<DType> types) const {
  const TensorInfo& info = need(suffix, types);
  if (info.shape.size() == 2 && info.shape[0] != 0 && info.shape[1] != 0) return info;
  stored::fail(checkpoint, info.name, fmt::format("has shape {}, which is no matrix", quant::to_string(info.shape)));
}

/// The linear's columns if its tensors fit that many bits.
std::optional<std::uint64_t> Inspector::columns(unsigned bits, std::uint64_t rows, const TensorInfo& zeros,
                                                const TensorInfo* index) const {
  if (packing::dense_words(rows, bits) != zeros.shape[1]) return std::nullopt;
  const std::uint64_t words = codes.shape[0];
  if (index != nullptr) {
    const std::uint64_t cols = element_count(index->shape);
    return packing::dense_words(cols, bits) == words ? std::optional(cols) : std::nullopt;
  }
  const std::uint64_t total = checked_mul(words, 32, codes.name);
  return total % bits == 0 ? std::optional(total / bits) : std::nullopt;
}

// Single modules may have other bits than config.json's first word; the shapes tell them.
void Inspector::find_size(StoredLinear& linear, const TensorInfo& zeros, const TensorInfo* index) const {
  linear.shape.module = module;
  linear.shape.rows = codes.shape[1];
  linear.shape.dtype = stored::weight_dtype(checkpoint);
  for (const int bits : {label.bits, 2, 3, 4, 8}) {
    if (!holds_bits(bits)) continue;
    const auto cols = columns(static_cast<unsigned>(bits), linear.shape.rows, zeros, index);
    if (!cols || *cols == 0) continue;
    linear.shape.cols = *cols;
    linear.args.num_bits = bits;
    checked_mul(linear.shape.rows, *cols, codes.name);
    return;
  }
  stored::fail(checkpoint, codes.name,
               fmt::format("has shape {} beside qzeros {}, which fit no 2, 3, 4 or 8 bits",
                           quant::to_string(codes.shape), quant::to_string(zeros.shape)));
}

/// Every stored field has that value, less 2^(b-1).
bool Inspector::all_zeros_are(int value, const StoredLinear& linear, const TensorInfo& zeros) const {
  const auto bits = static_cast<unsigned>(linear.args.num_bits);
  const std::vector<std::int8_t> fields(linear.shape.rows, static_cast<std::int8_t>(value));
  std::vector<std::byte> row(zeros.shape[1] * 4);
  packing::pack_row(fields, bits, packing::Coding::offset, row);
  const TensorView view = checkpoint.view(zeros);
  bool same = true;
  for (std::uint64_t g = 0; g < zeros.shape[0] && same; ++g) {
    same = std::memcmp(view.bytes.data() + g * row.size(), row.data(), row.size()) == 0;
  }
  checkpoint.done_reading(view);
  return same;
}

void Inspector::find_zero_points(StoredLinear& linear, const TensorInfo& zeros) const {
  Version version = label.version;
  linear.args.symmetric = all_zeros_are(version == Version::v1 ? -1 : 0, linear, zeros);
  if (!linear.args.symmetric && label.symmetric && all_zeros_are(version == Version::v1 ? 0 : -1, linear, zeros)) {
    linear.args.symmetric = true;
    version = version == Version::v1 ? Version::v2 : Version::v1;
  }
  linear.format = to_string(version);
}

void Inspector::find_order(StoredLinear& linear, const TensorInfo& index, std::uint64_t group) const {
  const auto bytes = stored::bytes_of(checkpoint, index, 0, linear.shape.cols * 4);
  const std::uint64_t extent = group == 0 ? linear.shape.cols : group;
  for (std::uint64_t c = 0; c < linear.shape.cols; ++c) {
    std::int32_t found = 0;
    std::memcpy(&found, bytes.data() + 4 * c, 4);
    if (found == static_cast<std::int32_t>(c / extent)) continue;
    if (group == 0) stored::fail(checkpoint, index.name, fmt::format("holds {}, but there is one group", found));
    linear.args.actorder = ActOrder::group;
    return;
  }
}

StoredLinear Inspector::inspect() const {
  need_matrix(kCodes, {DType::I32});
  const TensorInfo& zeros = need_matrix(".qzeros", {DType::I32});
  const TensorInfo& scales = need_matrix(".scales", {DType::F16, DType::BF16, DType::F32});
  const TensorInfo* index = checkpoint.find(module + ".g_idx");
  if (index != nullptr) {
    need(".g_idx", {DType::I32});
    if (index->shape.size() != 1) stored::fail(checkpoint, index->name, "is no list of numbers");
  }
  StoredLinear linear;
  find_size(linear, zeros, index);
  const Shape wanted = {zeros.shape[0], linear.shape.rows};
  stored::need_tensor(checkpoint, scales.name, {}, &wanted);
  linear.scale_dtype = scales.dtype;
  const auto group = stored::fitting_group(label.group_size, linear.shape.cols, wanted[0]);
  if (!group) {
    stored::fail(checkpoint, scales.name,
                 fmt::format("has {} groups, into which {} columns cannot be parted", wanted[0], linear.shape.cols));
  }
  linear.args = stored::grouped_args(static_cast<unsigned>(linear.args.num_bits), true, *group);
  find_zero_points(linear, zeros);
  linear.tensors = {codes.name, zeros.name, scales.name};
  if (index != nullptr) {
    find_order(linear, *index, *group);
    linear.tensors.push_back(index->name);
  }
  return linear;
}

}  // namespace

std::vector<StoredLinear> find_linears(const Checkpoint& checkpoint) {
  const Label label = read_label(checkpoint.config());
  stored::reject_orphans(checkpoint, kCodes, {".qzeros", ".scales", ".g_idx"});
  std::vector<StoredLinear> linears;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (!tensor.name.ends_with(kCodes)) continue;
    std::string module = tensor.name.substr(0, tensor.name.size() - kCodes.size());
    linears.push_back(Inspector{checkpoint, label, tensor, std::move(module)}.inspect());
  }
  return linears;
}

std::vector<std::string> remarks(const ModelConfig& model, const std::vector<StoredLinear>& linears) {
  const std::string_view said = to_string(read_label(model).version);
  const auto wrong =
      std::count_if(linears.begin(), linears.end(), [&](const StoredLinear& linear) { return linear.format != said; });
  if (wrong == 0) return {};
  const std::string_view found = said == "gptq" ? "gptq_v2" : "gptq";
  return {fmt::format(
      "config.json says checkpoint_format {}, but the zero points of {} of {} linears are those of symmetric weights "
      "in {}; they are read so here, and loaders that trust the label compute with wrong weights ('quant convert "
      "--to {}' mends it)",
      said, wrong, linears.size(), found, found)};
}

}  // namespace quant::gptq_layout
