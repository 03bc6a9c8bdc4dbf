// The layout "libquant": everything that the world's formats have no place for. docs/native-layout.md is its schema.
#include <numeric>

#include "layouts/native/config.h"
#include "layouts/native/parts.h"
#include "layouts/native/read_rows.h"
#include "layouts/native/write_rows.h"
#include "quant/registry.h"

namespace quant {
namespace {

class NativeLayout final : public Layout {
 public:
  std::string_view name() const override { return "libquant"; }

  DType scale_dtype(const QuantArgs& args, DType weight_dtype) const override {
    return native::stored_scale_dtype(args, weight_dtype);
  }
  std::optional<std::string> unsupported(const Scheme& scheme, const LinearShape& linear) const override {
    return native::why_unsupported(scheme, linear);
  }
  std::string format_of(const Scheme& scheme) const override {
    return scheme.weights ? native::format_name(*scheme.weights) : "integer";
  }
  std::vector<StoredTensor> stored(const Scheme& scheme, const LinearShape& linear) const override {
    std::vector<StoredTensor> list;
    for (const auto part : native::parts_of(*scheme.weights)) {
      list.push_back(native::stored_part(part, *scheme.weights, linear));
    }
    return list;
  }
  std::uint64_t row_alignment(const Scheme&) const override { return 1; }
  void write_rows(const Scheme& scheme, const LinearShape& linear, std::uint64_t first_row,
                  const QuantizedTensor& slice, StoredBytesSink& sink) const override {
    native::write_rows(*scheme.weights, linear, first_row, slice, sink);
  }
  std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                          const std::vector<std::string>& ignore) const override {
    return native::config_json(model, groups, ignore);
  }
  bool recognizes(const ModelConfig& model) const override { return native::says_libquant(model); }
  std::vector<StoredLinear> find_linears(const Checkpoint& checkpoint) const override {
    return native::find_linears(checkpoint);
  }
  void read_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row, std::uint64_t count,
                 QuantizedTensor& out) const override {
    native::read_rows(checkpoint, linear, first_row, count, out);
  }
  std::uint64_t read_alignment(const StoredLinear& linear) const override { return native::read_alignment(linear); }
};

}  // namespace

void register_native(Registry& registry);
void register_native(Registry& registry) { registry.add(std::make_unique<NativeLayout>()); }

}  // namespace quant
