// The presets against those of the compressed-tensors package, field by field. presets.json is made by
// check_presets.py.
#include <cctype>
#include <nlohmann/json.hpp>
#include <set>

#include "quant/dtype.h"
#include "quant/scheme.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant;
using nlohmann::json;

namespace {

json dynamic_json(Dynamic dynamic) {
  if (dynamic == Dynamic::local) return "local";
  return dynamic == Dynamic::yes;
}

/// Our arguments with the fields and spellings of the package.
json to_json(const QuantArgs& args) {
  json fields = json::object();
  fields["num_bits"] = args.num_bits;
  fields["type"] = to_string(args.type);
  fields["symmetric"] = args.symmetric;
  fields["strategy"] = to_string(args.strategy);
  fields["group_size"] = args.group_size ? json(*args.group_size) : json();
  fields["block_structure"] = args.block_structure ? json(*args.block_structure) : json();
  fields["dynamic"] = dynamic_json(args.dynamic);
  fields["actorder"] = args.actorder ? json(to_string(*args.actorder)) : json();
  fields["scale_dtype"] = args.scale_dtype ? json(torch_dtype_name(*args.scale_dtype)) : json();
  fields["observer"] = args.observer ? json(*args.observer) : json();
  CHECK(args.observer_kwargs.empty());
  fields["observer_kwargs"] = json::object();
  return fields;
}

/// The package fills in a zero-point type for symmetric schemes too, which have none, and leaves it out when it writes
/// them. We leave it empty; for asymmetric integers empty means int8, which must be the package's choice as well.
void check_zero_point(const json& theirs, const QuantArgs& ours) {
  CHECK_FALSE(ours.zp_dtype.has_value());
  if (!ours.symmetric) CHECK(theirs.at("zp_dtype") == "int8");
}

void compare(const json& theirs, const std::optional<QuantArgs>& ours) {
  REQUIRE(ours.has_value());
  json expected = theirs;
  expected.erase("zp_dtype");
  CHECK(to_json(*ours) == expected);
  check_zero_point(theirs, *ours);
}

}  // namespace

TEST_CASE("presets equal those of compressed-tensors 0.20") {
  const json golden = json::parse(test::read_file(std::string(QUANT_SOURCE_DIR) + "/tests/recipes/presets.json"));
  std::set<std::string> unsupported;
  for (const auto& [name, parts] : golden.items()) {
    INFO(name);
    const auto scheme = preset_scheme(name);
    if (!scheme) {
      unsupported.insert(name);
      continue;
    }
    CHECK(scheme->targets.empty());
    CHECK_FALSE(scheme->format.has_value());
    CHECK(scheme->weights.has_value() == parts.contains("weights"));
    CHECK(scheme->input_activations.has_value() == parts.contains("input_activations"));
    CHECK_FALSE(scheme->output_activations.has_value());
    if (parts.contains("weights")) compare(parts.at("weights"), scheme->weights);
    if (parts.contains("input_activations")) compare(parts.at("input_activations"), scheme->input_activations);
  }
  CHECK(unsupported == std::set<std::string>{"MXFP6A16", "MXFP6A8"});  // 6-bit floats
  for (const auto name : preset_names()) CHECK(golden.contains(std::string(name)));
  CHECK(preset_names().size() + unsupported.size() == golden.size());
}
