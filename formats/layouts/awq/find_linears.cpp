#include <fmt/format.h>

#include <algorithm>

#include "layouts/awq/forms.h"
#include "layouts/stored/tensor_parts.h"
#include "layouts/stored/transposed.h"
#include "quant/error.h"

namespace quant::awq_layout {
namespace {

constexpr std::string_view kCodes = ".qweight";

/// One module while its tensors are checked.
class Inspector {
 public:
  Inspector(const Checkpoint& checkpoint, const Label& label, const TensorInfo& codes, std::string module)
      : checkpoint_(checkpoint), label_(label), codes_(codes), module_(std::move(module)) {}

  StoredLinear inspect();

 private:
  const TensorInfo& matrix(std::string_view suffix, std::initializer_list<DType> types) const;
  std::optional<std::uint64_t> fit(Form form) const;
  std::optional<std::uint64_t> fit_gemm() const;
  std::optional<std::uint64_t> fit_gemv(Form form) const;
  bool has_zeros_of_eight(const StoredLinear& linear, Form form) const;

  const Checkpoint& checkpoint_;
  const Label& label_;
  const TensorInfo& codes_;
  const std::string module_;
  const TensorInfo* zeros_ = nullptr;
  const TensorInfo* scales_ = nullptr;
  std::uint64_t rows_ = 0, cols_ = 0;
};

const TensorInfo& Inspector::matrix(std::string_view suffix, std::initializer_list<DType> types) const {
  const TensorInfo& info = stored::need_tensor(checkpoint_, module_ + std::string(suffix), types, nullptr);
  if (info.shape.size() == 2 && info.shape[0] != 0 && info.shape[1] != 0) return info;
  stored::fail(checkpoint_, info.name, fmt::format("has shape {}, which is no matrix", quant::to_string(info.shape)));
}

std::optional<std::uint64_t> Inspector::fit_gemm() const {
  const std::uint64_t groups = scales_->shape[0];
  const Shape zeros = {groups, codes_.shape[1]}, scales = {groups, rows_};
  if (zeros_->dtype != DType::I32 || zeros_->shape != zeros || scales_->shape != scales) return std::nullopt;
  const auto group = stored::fitting_group(label_.group_size, cols_, groups);
  return group && *group != 0 && cols_ % *group != 0 ? std::nullopt : group;
}

/// Groups are padded, so that their size is the label's word.
std::optional<std::uint64_t> Inspector::fit_gemv(Form form) const {
  const bool whole = label_.group_size <= 0 || static_cast<std::uint64_t>(label_.group_size) >= cols_;
  const std::uint64_t group = whole ? cols_ : static_cast<std::uint64_t>(label_.group_size);
  if (cols_ % group != 0) return std::nullopt;
  const std::uint64_t words = zero_words(cols_ / group, group);
  const bool fast = form == Form::gemv_fast;
  const Shape scales = fast ? Shape{words * kFields, rows_} : Shape{rows_, words * kFields};
  const Shape zeros = fast ? scales : Shape{rows_, words};
  if (scales_->shape != scales || zeros_->shape != zeros || (zeros_->dtype == DType::I32) == fast) return std::nullopt;
  return whole && label_.group_size != static_cast<std::int64_t>(cols_) ? 0 : group;
}

/// The group size, 0 for one per row, if the tensors have the shapes of that form.
std::optional<std::uint64_t> Inspector::fit(Form form) const {
  return form == Form::gemm ? fit_gemm() : fit_gemv(form);
}

StoredLinear Inspector::inspect() {
  matrix(kCodes, {DType::I32, DType::I16});
  scales_ = &matrix(".scales", {DType::F16, DType::BF16, DType::F32});
  const bool fast = codes_.dtype == DType::I16;
  // llm-awq's own name for the products of scales and zero points.
  const bool scaled = fast && checkpoint_.find(module_ + ".qzeros") == nullptr;
  zeros_ = &matrix(scaled ? ".scaled_zeros" : ".qzeros", {DType::I32, DType::F16, DType::BF16, DType::F32});
  std::vector<Form> forms = {Form::gemm, Form::gemv};
  if (label_.form == Form::gemv) std::reverse(forms.begin(), forms.end());
  if (fast) forms = {Form::gemv_fast};
  for (const Form form : forms) {
    const bool tall = form == Form::gemm;
    rows_ = fast   ? checked_mul(codes_.shape[0], kInterleave, codes_.name)
            : tall ? checked_mul(codes_.shape[1], kFields, codes_.name)
                   : codes_.shape[0];
    cols_ = fast ? codes_.shape[1] : tall ? codes_.shape[0] : checked_mul(codes_.shape[1], kFields, codes_.name);
    checked_mul(rows_, cols_, codes_.name);
    if (fast && cols_ % 64 != 0) continue;
    const auto group = fit(form);
    if (!group) continue;
    StoredLinear linear;
    linear.shape = {module_, rows_, cols_, stored::weight_dtype(checkpoint_)};
    linear.scale_dtype = scales_->dtype;
    linear.format = to_string(form);
    linear.tensors = {codes_.name, zeros_->name, scales_->name};
    linear.args = stored::grouped_args(kBits, false, *group);
    linear.args.symmetric = has_zeros_of_eight(linear, form);
    return linear;
  }
  stored::fail(checkpoint_, codes_.name,
               fmt::format("has shape {} beside qzeros {} and scales {}, which fit no form of AWQ with groups of {}",
                           quant::to_string(codes_.shape), quant::to_string(zeros_->shape),
                           quant::to_string(scales_->shape), label_.group_size));
}

bool Inspector::has_zeros_of_eight(const StoredLinear& linear, Form form) const {
  const TensorView view = checkpoint_.view(*zeros_);
  bool same = true;
  if (form == Form::gemm) {
    same = std::all_of(view.bytes.begin(), view.bytes.end(), [](std::byte b) { return b == std::byte{0x88}; });
  } else {
    // Padding is zero, so that only the groups' own are looked at.
    QuantizedTensor rows;
    const auto read = form == Form::gemv ? read_gemv_rows : read_fast_rows;
    for (std::uint64_t row = 0; row < rows_ && same; row += kInterleave) {
      rows.resize(linear.args, std::min(kInterleave, rows_ - row), cols_);
      read(checkpoint_, linear, row, rows);
      same = std::all_of(rows.zero_points.begin(), rows.zero_points.end(), [](std::int8_t zero) { return zero == 0; });
    }
  }
  checkpoint_.done_reading(view);
  return same;
}

}  // namespace

std::vector<StoredLinear> find_linears(const Checkpoint& checkpoint) {
  const Label label = read_label(checkpoint.config());
  stored::reject_orphans(checkpoint, kCodes, {".qzeros", ".scaled_zeros", ".scales"});
  std::vector<StoredLinear> linears;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (!tensor.name.ends_with(kCodes)) continue;
    std::string module = tensor.name.substr(0, tensor.name.size() - kCodes.size());
    linears.push_back(Inspector(checkpoint, label, tensor, std::move(module)).inspect());
  }
  return linears;
}

}  // namespace quant::awq_layout
