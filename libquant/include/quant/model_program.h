// A model as a list of simple operations on named values: what the forward pass executes, what the calibrated pipeline
// cuts into stages, and where smoothing finds its producers. Built from config.json and a table per family.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "quant/checkpoint.h"

namespace quant {

/// Index into Program::values. A value is a row-major float32 matrix [tokens * rows_per_token, width].
using ValueId = int;

struct ProgramValue {
  std::string name;  ///< for messages: "attn_in"
  std::uint64_t width = 0;
  std::uint64_t rows_per_token = 1;  ///< more than 1: the token's copies for its experts, sorted by expert in a batch
};

/// A weight of a linear within the checkpoint.
struct LinearWeight {
  std::string module;       ///< "model.layers.0.self_attn.q_proj"; of a fused 3-D tensor "...experts.gate_up_proj#3"
  std::string tensor;       ///< "<module>.weight"
  std::string bias;         ///< tensor name, or empty
  std::uint64_t rows = 0;   ///< out_features
  std::uint64_t cols = 0;   ///< in_features
  bool transposed = false;  ///< stored as [in_features, out_features] (Conv1D, some fused expert tensors)
  std::int64_t slice = -1;  ///< index into the first dimension of a 3-D tensor; -1: the tensor is the matrix
};

enum class NormKind { rms, layer };
enum class Activation { silu, gelu, gelu_tanh, quick_gelu, relu, relu2, tanh, sigmoid };

/// out = normalized in, times weight, plus bias. group: width of the pieces that are normalized alone (QK norm per
/// head); 0: the whole row. plus_one: weight is stored as w - 1 (Gemma). group_weights: a weight tensor [group] for
/// each group (StableLM's heads), instead of `weight`.
struct NormOp {
  ValueId in = -1, out = -1;
  std::string module;
  std::string weight, bias;  ///< tensor names; empty: none
  NormKind kind = NormKind::rms;
  float epsilon = 1e-6F;
  bool plus_one = false;
  std::uint64_t group = 0;
  std::vector<std::string> group_weights;
};
/// out = in W^T + bias. One weight; or one per expert, each for its rows of a value made by GatherOp with `routing`.
struct LinearOp {
  ValueId in = -1, out = -1;
  std::vector<LinearWeight> weights;
  ValueId routing = -1;
};
/// out = repeat pieces of `width` columns, the i-th from column first + i * stride of in.
struct SliceOp {
  ValueId in = -1, out = -1;
  std::uint64_t first = 0, width = 0, stride = 0, repeat = 1;
};
/// Rotates the first rotary_dim columns of each head by the token's position. `inverse_frequency` [rotary_dim / 2] and
/// `magnitude` (factor on cos and sin) hold every scaling (linear, llama3, yarn). interleaved: pairs (2i, 2i+1) rather
/// than (i, i + rotary_dim / 2). dynamic: the family's "dynamic NTK", recomputed from base for longer sequences.
struct RotaryOp {
  ValueId in = -1, out = -1;
  std::uint64_t heads = 0, head_dim = 0, rotary_dim = 0;
  bool interleaved = false;
  std::vector<float> inverse_frequency;
  float magnitude = 1.0F;
  double dynamic_base = 0;  ///< > 0: dynamic NTK with this base, dynamic_factor, beyond dynamic_length tokens
  double dynamic_factor = 1;
  std::uint64_t dynamic_length = 0;
  std::vector<float> long_inverse_frequency;  ///< longrope: instead of inverse_frequency beyond dynamic_length tokens
};
/// Softmax attention per head. window > 0: a token sees itself and the window - 1 tokens before it.
struct AttentionOp {
  ValueId q = -1, k = -1, v = -1, out = -1;
  std::string module;  ///< "model.layers.0.self_attn"
  std::uint64_t heads = 0, kv_heads = 0, head_dim = 0, value_dim = 0;
  float scale = 1.0F;
  float softcap = 0.0F;  ///< > 0: scores = softcap * tanh(scores / softcap)
  std::uint64_t window = 0;
  bool causal = true;
};
struct ActivationOp {
  ValueId in = -1, out = -1;
  Activation function = Activation::silu;
};
/// out = a * b element by element; b may have width 1 (one factor per row).
struct MultiplyOp {
  ValueId a = -1, b = -1, out = -1;
};
struct AddOp {
  ValueId a = -1, b = -1, out = -1;
};
/// out = factor * in.
struct ScaleOp {
  ValueId in = -1, out = -1;
  float factor = 1.0F;
};
/// out = cap * tanh(in / cap).
struct SoftcapOp {
  ValueId in = -1, out = -1;
  float cap = 0.0F;
};
/// Chooses top_k experts per token. `out` has width 2 * top_k: expert numbers, then their weights.
struct RouteOp {
  ValueId logits = -1, out = -1;
  std::uint64_t experts = 0, top_k = 0;
  bool softmax_first = true;  ///< softmax over all experts before the choice (else over the chosen ones)
  bool normalize = true;      ///< chosen weights are divided by their sum
  float factor = 1.0F;
};
/// out = rows of `in` for the chosen experts of every token, sorted by expert, then by token.
struct GatherOp {
  ValueId in = -1, routing = -1, out = -1;
};
/// out [tokens, width] = sum over a token's experts of weight * row of `in`.
struct CombineOp {
  ValueId in = -1, routing = -1, out = -1;
};
/// out = rows of an embedding table: by token id, by position + offset, or row 0 (token types of a single text).
struct EmbeddingOp {
  enum class Index { token, position, zero };
  ValueId out = -1;
  std::string module, weight;
  Index index = Index::token;
  std::int64_t offset = 0;
  float factor = 1.0F;
};

using Op = std::variant<NormOp, LinearOp, SliceOp, RotaryOp, AttentionOp, ActivationOp, MultiplyOp, AddOp, ScaleOp,
                        SoftcapOp, RouteOp, GatherOp, CombineOp, EmbeddingOp>;

/// Operations in order of execution; every value is written once, before it is read.
struct Program {
  std::string name;  ///< "embeddings", "model.layers.0", "head"
  std::vector<ProgramValue> values;
  std::vector<Op> ops;
  ValueId input = -1;   ///< the residual stream that enters; -1 for the embeddings
  ValueId output = -1;  ///< what leaves: the residual stream, or the logits
};

std::vector<ValueId> inputs_of(const Op& op);
ValueId output_of(const Op& op);

/// A part of a program that ends where linears with one set of inputs begin: their inputs must be seen before they are
/// quantized, and all that follows needs them quantized.
struct Stage {
  std::size_t begin = 0;             ///< first operation
  std::size_t linears = 0;           ///< first LinearOp of the stage: operations [begin, linears) lead to its inputs
  std::size_t end = 0;               ///< one past the last operation: the next stage's begin, or ops.size()
  std::vector<std::size_t> members;  ///< LinearOps of this stage, all in [linears, end)
  std::vector<ValueId> live;         ///< values made before `begin` that this or a later stage reads
};
/// Divides a program. Cuts lie where the live values are narrowest between the last heavy operation (linear, attention)
/// of a stage and the first linear of the next, so that cheap operations are repeated rather than stored; among
/// equals the last. All that a stage's linears read is made before the first of them. A program without linears has no
/// stages.
std::vector<Stage> stages_of(const Program& program);

/// How many of a model's parts a family table describes.
struct ModelProgram {
  std::string family;  ///< "llama"
  std::uint64_t hidden = 0;
  std::uint64_t vocabulary = 0;
  std::uint64_t max_positions = 0;  ///< 0: no limit (rotary)
  bool causal = true;
  Program embeddings;
  std::vector<Program> blocks;
  Program head;  ///< final norm and logits; without LinearOp where the model has no language-model head
};

/// Builds the program of a model from its config.json and checks every tensor it needs against `checkpoint` (names,
/// shapes; packed linears count by their logical shape, see LogicalTensors). Throws Error{unsupported} saying what is
/// missing: an unknown model_type names the known ones, an unknown rope scaling or activation names itself.
class LogicalTensors;
ModelProgram build_model_program(const LogicalTensors& tensors);
/// model_type values that build_model_program knows, sorted.
std::vector<std::string> known_model_types();

}  // namespace quant
