// Every family against Transformers' outputs (make_golden.py), and the structure of its programs.
#include <set>
#include <utility>

#include "check_program.h"
#include "golden_model.h"
#include "quant/forward.h"
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

// Both sequences of a golden model as one batch.
struct GoldenBatch {
  explicit GoldenBatch(const GoldenModel& golden) {
    for (const auto& one : golden.ids) {
      batch.lengths.push_back(one.size());
      ids.insert(ids.end(), one.begin(), one.end());
    }
    batch.ids = ids;
    for (const auto& one : golden.outputs) output.insert(output.end(), one.begin(), one.end());
  }
  GoldenBatch(const GoldenBatch&) = delete;
  GoldenBatch& operator=(const GoldenBatch&) = delete;

  Batch batch;
  std::vector<std::int32_t> ids;
  std::vector<float> output;
};

std::vector<float> run_at_once(const Program& program, const ModelWeights& weights, const ForwardOptions& options,
                               const Batch& batch, const std::vector<float>& input) {
  ProgramRunner runner(program, weights, options);
  Values values(program);
  if (program.input >= 0) values.at(program.input) = input;
  runner.run(0, program.ops.size(), batch, values);
  return values.at(program.output);
}

// As the pipeline does: of one stage only the values that the next one starts from are kept.
std::vector<float> run_in_stages(const Program& program, const ModelWeights& weights, const ForwardOptions& options,
                                 const Batch& batch, const std::vector<float>& input) {
  const std::vector<Stage> stages = stages_of(program);
  if (stages.empty()) return run_at_once(program, weights, options, batch, input);
  ProgramRunner runner(program, weights, options);
  Values values(program);
  if (program.input >= 0) values.at(program.input) = input;
  for (std::size_t s = 0; s < stages.size(); ++s) {
    const std::vector<ValueId> next = s + 1 < stages.size() ? stages[s + 1].live : std::vector<ValueId>{program.output};
    runner.run(stages[s].begin, stages[s].end, batch, values, next);
    Values kept(program);
    for (const ValueId id : next) kept.at(id) = values.at(id);
    std::swap(values, kept);
  }
  return values.at(program.output);
}

template <typename Run>
std::vector<float> run_model(const ModelProgram& model, const ModelWeights& weights, const ForwardOptions& options,
                             const Batch& batch, const Run& run) {
  std::vector<float> x = run(model.embeddings, weights, options, batch, std::vector<float>());
  for (const Program& block : model.blocks) x = run(block, weights, options, batch, x);
  return run(model.head, weights, options, batch, x);
}

// A change of one property of operations; false where an operation has no such property.
struct Change {
  const char* name;
  bool (*apply)(Op& op);
};

template <typename T, typename Use>
bool change_op(Op& op, const Use& use) {
  T* one = std::get_if<T>(&op);
  return one != nullptr && use(*one);
}

const Change kChanges[] = {
    {"window",
     [](Op& op) { return change_op<AttentionOp>(op, [](auto& o) { return std::exchange(o.window, 0) > 0; }); }},
    {"attention softcap",
     [](Op& op) { return change_op<AttentionOp>(op, [](auto& o) { return std::exchange(o.softcap, 0.0F) > 0; }); }},
    {"logit softcap",
     [](Op& op) { return change_op<SoftcapOp>(op, [](auto& o) { return std::exchange(o.cap, 1e9F) > 0; }); }},
    {"scale", [](Op& op) { return change_op<AttentionOp>(op, [](auto& o) { return (o.scale *= 1.1F) > 0; }); }},
    {"causal",
     [](Op& op) { return change_op<AttentionOp>(op, [](auto& o) { return (o.causal = !o.causal) || true; }); }},
    {"frequencies",
     [](Op& op) {
       return change_op<RotaryOp>(op, [](auto& o) {
         for (float& frequency : o.inverse_frequency) frequency *= 1.1F;
         for (float& frequency : o.long_inverse_frequency) frequency *= 1.1F;
         o.dynamic_base *= 1.1;
         return true;
       });
     }},
    {"magnitude",
     [](Op& op) { return change_op<RotaryOp>(op, [](auto& o) { return std::exchange(o.magnitude, 1.0F) != 1.0F; }); }},
    {"dynamic base",
     [](Op& op) { return change_op<RotaryOp>(op, [](auto& o) { return std::exchange(o.dynamic_base, 0.0) > 0; }); }},
    {"long frequencies",
     [](Op& op) {
       return change_op<RotaryOp>(op, [](auto& o) { return !std::exchange(o.long_inverse_frequency, {}).empty(); });
     }},
    {"epsilon", [](Op& op) { return change_op<NormOp>(op, [](auto& o) { return (o.epsilon += 0.01F) > 0; }); }},
    {"offset of norms",
     [](Op& op) { return change_op<NormOp>(op, [](auto& o) { return std::exchange(o.plus_one, false); }); }},
    {"kind of norm",
     [](Op& op) {
       return change_op<NormOp>(op, [](auto& o) {
         o.kind = o.kind == NormKind::rms ? NormKind::layer : NormKind::rms;
         return true;
       });
     }},
    {"normalized experts",
     [](Op& op) { return change_op<RouteOp>(op, [](auto& o) { return (o.normalize = !o.normalize) || true; }); }},
    {"factor of embeddings",
     [](Op& op) { return change_op<EmbeddingOp>(op, [](auto& o) { return std::exchange(o.factor, 1.0F) != 1.0F; }); }},
    {"offset of positions",
     [](Op& op) { return change_op<EmbeddingOp>(op, [](auto& o) { return std::exchange(o.offset, 0) != 0; }); }},
};

// The number of operations that change.
int change_all(ModelProgram& model, const Change& change) {
  int changed = 0;
  const auto change_program = [&](Program& program) {
    for (Op& op : program.ops) changed += change.apply(op) ? 1 : 0;
  };
  change_program(model.embeddings);
  change_program(model.head);
  for (Program& block : model.blocks) change_program(block);
  return changed;
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

TEST_CASE("the forward pass computes what Transformers computes, at once and in stages") {
  for (const std::string& name : golden_names()) {
    INFO(name);
    const auto golden = golden_model(name);
    const LogicalTensors tensors(golden->checkpoint, formats());
    const ModelProgram model = build_model_program(tensors);
    const ModelWeights weights(tensors);
    const GoldenBatch input(*golden);
    ForwardOptions options;
    const auto output = run_model(model, weights, options, input.batch, run_at_once);
    CHECK(relative_error(output, input.output) < kFloatRounding);
    options.threads = 3;
    CHECK(run_model(model, weights, options, input.batch, run_in_stages) == output);
  }
}

TEST_CASE("the golden outputs depend on every property of the programs") {
  for (const Change& change : kChanges) {
    INFO(change.name);
    int models = 0;
    for (const std::string& name : golden_names()) {
      INFO(name);
      const auto golden = golden_model(name);
      const LogicalTensors tensors(golden->checkpoint, formats());
      ModelProgram model = build_model_program(tensors);
      if (change_all(model, change) == 0) continue;
      ++models;
      CHECK(relative_error(ReferenceForward(tensors).run(model, golden->ids[0]), golden->outputs[0]) >
            20 * kFloatRounding);
    }
    CHECK(models > 0);
  }
}
