// Every family against Transformers' outputs (make_golden.py), and the structure of its programs.
#include <map>
#include <set>

#include "check_program.h"
#include "golden_model.h"
#include "quant/logical_tensors.h"
#include "quant/model_program.h"
#include "quant/registry.h"
#include "reference_forward.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

// The golden outputs come from float32 arithmetic: a few roundings (6e-8 each) along a few layers.
constexpr double kFloatRounding = 1e-5;

const Registry& formats() {
  static const Registry* registry = [] {
    auto* made = new Registry;
    register_builtin_formats(*made);
    return made;
  }();
  return *registry;
}

}  // namespace

TEST_CASE("every family has a golden model") {
  std::set<std::string> types;
  for (const std::string& name : golden_names()) types.insert(golden_model(name)->checkpoint.config().model_type);
  const auto known = known_model_types();
  CHECK(std::set<std::string>(known.begin(), known.end()) == types);
  CHECK(std::is_sorted(known.begin(), known.end()));
}

TEST_CASE("programs mean what Transformers computes") {
  for (const std::string& name : golden_names()) {
    INFO(name);
    const auto golden = golden_model(name);
    const LogicalTensors tensors(golden->checkpoint, formats());
    const ModelProgram model = build_model_program(tensors);
    check_model(model);
    ReferenceForward forward(tensors);
    for (std::size_t i = 0; i < golden->ids.size(); ++i) {
      const double error = relative_error(forward.run(model, golden->ids[i]), golden->outputs[i]);
      INFO("sequence " << i);
      CHECK(error < kFloatRounding);
    }
  }
}
