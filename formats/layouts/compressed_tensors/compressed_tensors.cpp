#include "layouts/compressed_tensors/compressed_tensors.h"

#include "layouts/compressed_tensors/config_read.h"
#include "layouts/compressed_tensors/config_write.h"
#include "layouts/compressed_tensors/find_linears.h"
#include "layouts/compressed_tensors/formats.h"
#include "layouts/compressed_tensors/kv_cache.h"
#include "layouts/compressed_tensors/read_rows.h"
#include "layouts/compressed_tensors/stored_parts.h"
#include "layouts/compressed_tensors/write_rows.h"
#include "quant/registry.h"

namespace quant {
namespace {

namespace ct = compressed_tensors;

class CompressedTensors final : public Layout {
 public:
  std::string_view name() const override { return "compressed-tensors"; }

  DType scale_dtype(const QuantArgs& args, DType weight_dtype) const override {
    return ct::stored_scale_dtype(args, weight_dtype);
  }
  DType input_scale_dtype(const QuantArgs& inputs, DType weight_dtype) const override {
    return ct::activation_scale_dtype(inputs, weight_dtype);
  }
  std::optional<std::string> unsupported(const Scheme& scheme, const LinearShape& linear) const override {
    return ct::why_unsupported(scheme, linear);
  }
  std::string format_of(const Scheme& scheme) const override {
    return std::string(ct::format_name(ct::choose_format(scheme)));
  }
  std::vector<StoredTensor> stored(const Scheme& scheme, const LinearShape& linear) const override {
    std::vector<StoredTensor> list;
    for (const auto part : ct::parts_of(scheme)) list.push_back(ct::stored_part(part, scheme, linear));
    return list;
  }
  std::uint64_t row_alignment(const Scheme& scheme) const override {
    return scheme.weights ? ct::slice_alignment(ct::choose_format(scheme), *scheme.weights) : 1;
  }
  void write_rows(const Scheme& scheme, const LinearShape& linear, std::uint64_t first_row,
                  const QuantizedTensor& slice, StoredBytesSink& sink) const override {
    ct::write_rows(scheme, linear, first_row, slice, sink);
  }
  std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                          const std::vector<std::string>& ignore) const override {
    return ct::config_json(model, groups, ignore, std::nullopt);
  }

  bool recognizes(const ModelConfig& model) const override { return ct::says_compressed_tensors(model); }
  std::vector<StoredLinear> find_linears(const Checkpoint& checkpoint) const override {
    return ct::find_linears(checkpoint);
  }
  void read_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row, std::uint64_t count,
                 QuantizedTensor& out) const override {
    ct::read_rows(checkpoint, linear, first_row, count, out);
  }
  std::uint64_t read_alignment(const StoredLinear& linear) const override {
    return ct::slice_alignment(ct::format_of(linear), linear.args);
  }
  std::optional<std::string> with_kv_cache(const std::string& config_json, const QuantArgs& args) const override {
    return ct::with_kv_cache(config_json, args);
  }
  std::optional<QuantArgs> kv_cache_scheme(const ModelConfig& model) const override {
    return ct::kv_cache_scheme(model);
  }
  std::optional<std::string> unsupported_kv(const QuantArgs& args) const override {
    return ct::why_unsupported_kv(args);
  }
  std::vector<StoredTensor> stored_kv(const QuantArgs& args, const std::string& attention, DType dtype) const override {
    return ct::stored_kv(args, attention, dtype);
  }
  void write_kv(const QuantArgs& args, const std::string& attention, DType dtype, const KvScales& scales,
                StoredBytesSink& sink) const override {
    ct::write_kv(args, attention, dtype, scales, sink);
  }
  std::string config_json_kv(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                             const std::vector<std::string>& ignore, const QuantArgs& kv_cache) const override {
    return ct::config_json(model, groups, ignore, kv_cache);
  }
  std::vector<StoredKv> find_kv(const Checkpoint& checkpoint) const override { return ct::find_kv(checkpoint); }
};

}  // namespace

std::unique_ptr<Layout> make_compressed_tensors() { return std::make_unique<CompressedTensors>(); }

void register_compressed_tensors(Registry& registry);
void register_compressed_tensors(Registry& registry) { registry.add(make_compressed_tensors()); }

}  // namespace quant
