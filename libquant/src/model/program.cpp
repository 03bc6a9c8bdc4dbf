// From config.json and a family table to the operations of a model: embeddings, head, and the list of blocks.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "model/program_model.h"
#include "quant/error.h"

namespace quant {
namespace {

const Family& family_of(const LogicalTensors& tensors) {
  const ModelConfig& config = tensors.checkpoint().config();
  for (const Family& family : families()) {
    if (family.model_type == config.model_type) return family;
  }
  std::string known;
  for (const std::string& name : known_model_types()) known += (known.empty() ? "" : ", ") + name;
  const std::string location = tensors.checkpoint().location().string();
  const std::string what = config.model_type.empty()
                               ? fmt::format("{} has no config.json that names a model_type", location)
                               : fmt::format("{} is of model_type '{}'", location, config.model_type.substr(0, 60));
  throw Error(ErrorCode::unsupported,
              fmt::format("{}; no forward pass is known for it, which calibration and evaluation need", what),
              fmt::format("Known are {}. Data-free recipes (round to nearest) work for any model.", known),
              "UnknownModelType");
}

ValueId add_embedding(ProgramBuilder& builder, const ProgramModel& model, std::string_view name,
                      EmbeddingOp::Index index, const Shape& shape, const char* value) {
  EmbeddingOp op;
  op.module = model.module(name);
  op.weight = model.tensors.require(op.module + ".weight", shape);
  op.index = index;
  if (index == EmbeddingOp::Index::position) op.offset = model.family.position_offset;
  if (index == EmbeddingOp::Index::token && model.family.scale_embedding) {
    op.factor = static_cast<float>(std::sqrt(static_cast<double>(model.hidden)));
  }
  return builder.embedding(std::move(op), shape[1], value);
}

bool reads_embedding_as_head(const ProgramModel& model) {
  // Absent in config.json and in the defaults: false, unless the architecture says that it generates text.
  if (model.config.find("tie_word_embeddings") != nullptr) return model.config.flag("tie_word_embeddings", false);
  const auto& names = model.tensors.all().checkpoint().config().architectures;
  return std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return name.ends_with("ForCausalLM") || name.ends_with("LMHeadModel") || name.ends_with("ForConditionalGeneration");
  });
}

// A head tensor that is there counts even in a model with tied embeddings: it was stored because it differs. A model
// saved without its head (LlamaModel) has none.
std::optional<LinearWeight> head_weight(const ProgramModel& model) {
  const FamilyNames& names = model.family.names;
  LinearWeight weight;
  weight.rows = model.vocabulary;
  weight.cols = model.embedding_width;
  const Shape shape = {weight.rows, weight.cols};
  for (const std::string_view head : names.heads) {
    weight.module = head;
    weight.tensor = weight.module + ".weight";
    if (!model.tensors.has(weight.tensor)) continue;
    model.tensors.require(weight.tensor, shape);
    return weight;
  }
  if (names.heads.empty()) return std::nullopt;
  weight.module = names.heads.front();
  if (reads_embedding_as_head(model)) {
    weight.tensor = model.tensors.require(model.module(names.tokens) + ".weight", shape);
    return weight;
  }
  const auto& architectures = model.tensors.all().checkpoint().config().architectures;
  const bool headless = !architectures.empty() && architectures.front().ends_with("Model") &&
                        !architectures.front().ends_with("LMHeadModel");
  if (headless) return std::nullopt;
  model.tensors.require(weight.module + ".weight", shape);
  return weight;
}

}  // namespace

std::vector<std::string> known_model_types() {
  std::vector<std::string> names;
  for (const Family& family : families()) names.emplace_back(family.model_type);
  std::sort(names.begin(), names.end());
  return names;
}

Program build_embeddings(const ProgramModel& model) {
  const FamilyNames& names = model.family.names;
  ProgramBuilder builder("embeddings");
  ValueId x = add_embedding(builder, model, names.tokens, EmbeddingOp::Index::token,
                            {model.vocabulary, model.embedding_width}, "tokens");
  if (!names.project_in.empty() && model.embedding_width != model.hidden) {
    x = builder.linear(
        x, {model.linear(model.module(names.project_in), model.hidden, model.embedding_width, {}, false)}, "projected");
  }
  if (!names.token_types.empty()) {
    const std::uint64_t types = model.config.count("type_vocab_size");
    x = builder.add(x,
                    add_embedding(builder, model, names.token_types, EmbeddingOp::Index::zero, {types, model.hidden},
                                  "token_types"),
                    "tokens_and_types");
  }
  if (!names.positions.empty()) {
    const std::uint64_t rows =
        model.config.count(model.family.keys.positions) + static_cast<std::uint64_t>(model.family.position_offset);
    x = builder.add(
        x,
        add_embedding(builder, model, names.positions, EmbeddingOp::Index::position, {rows, model.hidden}, "positions"),
        "embedded");
  }
  if (!names.embedding_norm.empty()) {
    x = builder.norm(model.norm(x, model.module(names.embedding_norm), model.hidden), "normalized");
  }
  return builder.finish(x);
}

Program build_head(const ProgramModel& model) {
  const FamilyNames& names = model.family.names;
  ProgramBuilder builder("head");
  ValueId x = builder.input("residual", model.hidden);
  const bool removed = !model.norm_first || model.config.flag(model.family.keys.remove_final_norm, false);
  if (!names.final_norm.empty() && !removed) {
    x = builder.norm(model.norm(x, model.module(names.final_norm), model.hidden), "normalized");
  }
  if (!names.project_out.empty() && model.embedding_width != model.hidden) {
    x = builder.linear(x,
                       {model.linear(model.module(names.project_out), model.embedding_width, model.hidden, {}, false)},
                       "projected");
  }
  const auto head = head_weight(model);
  if (!head) return builder.finish(x);
  x = builder.linear(x, {*head}, "logits");
  if (const auto cap = model.config.optional_positive(model.family.keys.logit_softcap)) {
    x = builder.softcap(x, static_cast<float>(*cap), "capped_logits");
  }
  return builder.finish(x);
}

ModelProgram build_model_program(const LogicalTensors& tensors) {
  const ProgramModel model(family_of(tensors), tensors);
  ModelProgram program;
  program.family = model.family.model_type;
  program.hidden = model.hidden;
  program.vocabulary = model.vocabulary;
  program.causal = model.family.causal;
  if (model.family.positions == Positions::learned) {
    program.max_positions = model.config.count(model.family.keys.positions);
  }
  program.embeddings = build_embeddings(model);
  // No reservation: config.json may claim any number of layers, and the first that has no tensors ends this loop.
  for (std::uint64_t layer = 0; layer < model.layers; ++layer) program.blocks.push_back(build_block(model, layer));
  program.head = build_head(model);
  return program;
}

}  // namespace quant
