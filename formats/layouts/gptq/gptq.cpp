// The layout "gptq": what AutoGPTQ and GPTQModel write, versions 1 and 2. docs/layouts.md describes it.
#include "layouts/gptq/config.h"
#include "layouts/gptq/find_linears.h"
#include "layouts/gptq/parts.h"
#include "layouts/gptq/rows.h"
#include "layouts/stored/json_value.h"
#include "quant/registry.h"

namespace quant {
namespace {

class Gptq final : public Layout {
 public:
  std::string_view name() const override { return "gptq"; }
  DType scale_dtype(const QuantArgs&, DType) const override { return DType::F16; }
  std::optional<std::string> unsupported(const Scheme& scheme, const LinearShape& linear) const override {
    return gptq_layout::why_unsupported(scheme, linear);
  }
  std::vector<std::string> contradictions(const std::vector<SchemeGroup>& groups) const override {
    return gptq_layout::contradictions(groups);
  }
  std::string format_of(const Scheme& scheme) const override {
    return std::string(gptq_layout::to_string(gptq_layout::version_of(scheme)));
  }
  std::vector<StoredTensor> stored(const Scheme& scheme, const LinearShape& linear) const override {
    return gptq_layout::tensors_of(*scheme.weights, linear);
  }
  std::uint64_t row_alignment(const Scheme&) const override { return gptq_layout::kAlignment; }
  void write_rows(const Scheme& scheme, const LinearShape& linear, std::uint64_t first_row,
                  const QuantizedTensor& slice, StoredBytesSink& sink) const override {
    gptq_layout::write_rows(scheme, linear, first_row, slice, sink);
  }
  std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                          const std::vector<std::string>& ignore) const override {
    return gptq_layout::config_json(model, groups, ignore);
  }
  // AutoGPTQ and its successors look for a file of their own first.
  std::vector<SideFile> side_files(const std::string& config_json) const override {
    const auto root = stored::parse_json(config_json, "config.json");
    const auto config = root.find("quantization_config");
    if (config == root.end()) return {};
    return {{"quantize_config.json", stored::config_text(*config)}};
  }
  bool recognizes(const ModelConfig& model) const override { return gptq_layout::says_gptq(model); }
  std::vector<StoredLinear> find_linears(const Checkpoint& checkpoint) const override {
    return gptq_layout::find_linears(checkpoint);
  }
  std::vector<std::string> remarks(const Checkpoint& checkpoint,
                                   const std::vector<StoredLinear>& linears) const override {
    return gptq_layout::remarks(checkpoint.config(), linears);
  }
  std::uint64_t read_alignment(const StoredLinear&) const override { return gptq_layout::kAlignment; }
  void read_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row, std::uint64_t count,
                 QuantizedTensor& out) const override {
    gptq_layout::ZeroRule rule;
    // Only then does it matter who wrote the file.
    const bool old = !linear.args.symmetric && linear.format == gptq_layout::to_string(gptq_layout::Version::v1);
    if (!old) rule.version = gptq_layout::Version::v2;
    if (old) rule.whole_words = gptq_layout::read_label(checkpoint.config()).whole_words;
    gptq_layout::read_rows(checkpoint, linear, rule, first_row, count, out);
  }
};

}  // namespace

void register_gptq_layout(Registry& registry);
void register_gptq_layout(Registry& registry) { registry.add(std::make_unique<Gptq>()); }

}  // namespace quant
