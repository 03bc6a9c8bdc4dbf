#include <fmt/format.h>

#include <algorithm>

#include "layouts/awq/forms.h"
#include "layouts/stored/json_value.h"
#include "quant/error.h"

namespace quant::awq_layout {
namespace {

using Json = nlohmann::ordered_json;
using stored::fail_key;
using stored::first_of;

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorCode::unsupported, fmt::format("AWQ weights {} cannot be read", what),
              "save the model in the form gemm with the package that wrote it", "UnknownPacking");
}

Form read_form(const Json& config) {
  const Json* name = first_of(config, {"version", "format", "checkpoint_format"});
  if (name == nullptr) return Form::gemm;
  if (!name->is_string()) fail_key("version", "text");
  std::string text = name->get<std::string>();
  std::transform(text.begin(), text.end(), text.begin(), [](char c) {
    return c == '-' ? '_' : c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  // Kernels that repack the form gemm when they load it.
  for (const char* loaded : {"exllama", "exllamav2", "ipex", "marlin"}) {
    if (text == loaded) return Form::gemm;
  }
  if (text == "llm_awq") return Form::gemv_fast;
  const auto form = parse_form(text);
  if (!form) refuse(fmt::format("of version '{}'", text));
  return *form;
}

std::int64_t group_of(const SchemeGroup& group) {
  const QuantArgs& args = *group.scheme.weights;
  return args.strategy == Strategy::group ? *args.group_size : -1;
}

// Loaders leave out every module whose name contains an entry of the list.
void check_ignored(const std::vector<SchemeGroup>& groups, const std::vector<std::string>& ignore) {
  for (const SchemeGroup& group : groups) {
    for (const LinearShape& linear : group.linears) {
      for (const std::string& entry : ignore) {
        if (linear.module.find(entry) == std::string::npos) continue;
        throw Error(ErrorCode::unsupported,
                    fmt::format("AWQ loaders would leave out {} with the ignored module {}, whose name is part of its",
                                linear.module, entry),
                    "quantize both or neither, or use another layout");
      }
    }
  }
}

}  // namespace

std::string_view to_string(Form form) {
  return form == Form::gemm ? "gemm" : form == Form::gemv ? "gemv" : "gemv_fast";
}

std::optional<Form> parse_form(std::string_view name) {
  for (const Form form : {Form::gemm, Form::gemv, Form::gemv_fast}) {
    if (name == to_string(form)) return form;
  }
  return std::nullopt;
}

bool says_awq(const ModelConfig& model) { return stored::method_config(model, {"awq"}).is_object(); }

Label read_label(const ModelConfig& model) {
  const Json config = stored::method_config(model, {"awq"});
  Label label;
  if (!config.is_object()) return label;
  if (const Json* bits = first_of(config, {"bits", "w_bit"})) {
    if (!bits->is_number_integer()) fail_key("bits", "a whole number");
    if (*bits != kBits) refuse(fmt::format("of {} bits", bits->dump()));
  }
  if (const Json* group = first_of(config, {"group_size", "q_group_size"})) {
    constexpr std::int64_t kLargest = 1 << 30;
    if (!group->is_number_integer()) fail_key("group_size", "a whole number");
    const bool fits = !group->is_number_unsigned() || group->get<std::uint64_t>() <= kLargest;
    label.group_size = fits ? group->get<std::int64_t>() : -2;
    if (label.group_size < -1 || label.group_size == 0) fail_key("group_size", "-1 or a positive number below 2^30");
  }
  label.form = read_form(config);
  return label;
}

std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                        const std::vector<std::string>& ignore) {
  Json root = stored::config_root(model);
  if (const auto problems = contradictions(groups); !problems.empty()) throw Error(ErrorCode::usage, problems.front());
  check_ignored(groups, ignore);
  // Symmetric weights as well: they have zero points of 8, and loaders know no AWQ without any.
  root["quantization_config"] = {{"quant_method", "awq"},
                                 {"bits", kBits},
                                 {"group_size", groups.empty() ? 128 : group_of(groups.front())},
                                 {"zero_point", true},
                                 {"version", "gemm"},
                                 {"modules_to_not_convert", ignore.empty() ? Json(nullptr) : Json(ignore)}};
  return stored::config_text(root);
}

std::vector<std::string> contradictions(const std::vector<SchemeGroup>& groups) {
  std::vector<std::string> problems;
  for (const SchemeGroup& group : groups) {
    if (group_of(group) == group_of(groups.front())) continue;
    problems.push_back(
        fmt::format("the layout awq has one group size for a whole model: {} has {} and {} has {}; use one of them, or "
                    "--layout gptq",
                    groups.front().name, group_of(groups.front()), group.name, group_of(group)));
  }
  return problems;
}

}  // namespace quant::awq_layout
