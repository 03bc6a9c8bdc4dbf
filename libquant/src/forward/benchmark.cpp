// The forward pass of a Llama block beside the products that it consists of.
#include "quant/benchmark.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>

#include "quant/forward.h"

namespace quant {
namespace {

constexpr std::uint64_t kSequences = 4;
constexpr std::uint64_t kTokens = 512;  // of a sequence

// A checkpoint whose tensors all show the same random numbers: of memory it takes what the largest tensor takes.
class RandomCheckpoint final : public Checkpoint {
 public:
  void add(const std::string& name, Shape shape) {
    const std::uint64_t bytes = byte_count(DType::BF16, shape);
    largest_ = std::max(largest_, bytes);
    tensors_.push_back({name, DType::BF16, std::move(shape), bytes, 0, 0});
  }
  void fill(float deviation) {
    std::minstd_rand random(1);
    std::uniform_real_distribution<float> uniform(-deviation, deviation);
    data_.resize(largest_);
    for (std::uint64_t at = 0; at < largest_; at += 2) {
      const std::uint16_t bits = f32_to_bf16(uniform(random));
      std::memcpy(data_.data() + at, &bits, 2);
    }
  }

  const std::filesystem::path& location() const override { return path_; }
  const std::vector<CheckpointFile>& files() const override { return files_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  const TensorInfo* find(std::string_view name) const override {
    const auto at = std::find_if(tensors_.begin(), tensors_.end(), [&](const auto& t) { return t.name == name; });
    return at == tensors_.end() ? nullptr : &*at;
  }
  TensorView view(const TensorInfo& info) const override {
    return {info.dtype, info.shape, std::span(data_).first(info.bytes)};
  }
  const ModelConfig& config() const override { return config_; }
  const std::vector<std::filesystem::path>& companions() const override { return companions_; }

 private:
  std::filesystem::path path_ = "random";
  std::vector<CheckpointFile> files_;
  std::vector<TensorInfo> tensors_;
  ModelConfig config_;
  std::vector<std::filesystem::path> companions_;
  std::vector<std::byte> data_;
  std::uint64_t largest_ = 0;
};

class BlockMaker {
 public:
  BlockMaker(Program& program, RandomCheckpoint& checkpoint) : program_(program), checkpoint_(checkpoint) {}

  ValueId value(const char* name, std::uint64_t width) {
    program_.values.push_back({name, width, 1});
    return static_cast<ValueId>(program_.values.size()) - 1;
  }
  std::uint64_t width(ValueId id) const { return program_.values[static_cast<std::size_t>(id)].width; }
  template <class T>
  ValueId push(T op) {
    const ValueId out = op.out;
    program_.ops.emplace_back(std::move(op));
    return out;
  }
  ValueId linear(const char* name, ValueId in, std::uint64_t out_width) {
    const std::string tensor = std::string(name) + ".weight";
    checkpoint_.add(tensor, {out_width, width(in)});
    LinearOp op{in, value(name, out_width), {}, -1};
    op.weights.push_back({name, tensor, "", out_width, width(in), false, -1});
    return push(op);
  }
  ValueId norm(const char* name, ValueId in) {
    checkpoint_.add(name, {width(in)});
    NormOp op;
    op.in = in;
    op.out = value(name, width(in));
    op.weight = op.module = name;
    return push(op);
  }
  ValueId rotary(ValueId in, std::uint64_t heads) {
    RotaryOp op;
    op.in = in;
    op.out = value("rotated", width(in));
    op.heads = heads;
    op.head_dim = width(in) / heads;
    op.rotary_dim = op.head_dim / 2 * 2;
    for (std::uint64_t i = 0; i < op.rotary_dim / 2; ++i) {
      op.inverse_frequency.push_back(std::pow(5e5F, -2.0F * static_cast<float>(i) / static_cast<float>(op.rotary_dim)));
    }
    return push(op);
  }

 private:
  Program& program_;
  RandomCheckpoint& checkpoint_;
};

// The proportions of Llama 3 8B, whose width is 4096: heads of 128, four per key head; 3.5 times the width within.
struct Block {
  Program program;
  RandomCheckpoint checkpoint;
  Registry registry;
  std::unique_ptr<LogicalTensors> logical;
  std::unique_ptr<ModelWeights> weights;
  std::unique_ptr<ProgramRunner> runner;
  std::vector<float> input;
  Batch batch;

  Block(std::uint64_t hidden, ProductType type, int threads) {
    build(hidden);
    checkpoint.fill(1.0F / std::sqrt(static_cast<float>(hidden)));
    logical = std::make_unique<LogicalTensors>(checkpoint, registry);
    weights = std::make_unique<ModelWeights>(*logical);
    runner = std::make_unique<ProgramRunner>(program, *weights, ForwardOptions{type, threads, false});
    runner->prepare(0, program.ops.size());
    batch.lengths.assign(kSequences, kTokens);
    std::minstd_rand random(2);
    std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
    input.resize(batch.tokens() * hidden);
    for (float& x : input) x = uniform(random);
  }

  void build(std::uint64_t hidden) {
    BlockMaker make(program, checkpoint);
    const std::uint64_t head = std::min<std::uint64_t>(128, hidden);
    const std::uint64_t heads = hidden / head, kv_heads = heads % 4 == 0 ? heads / 4 : heads;
    const ValueId x = program.input = make.value("input", hidden);
    const ValueId normed = make.norm("input_layernorm", x);
    AttentionOp attention;
    attention.q = make.rotary(make.linear("q_proj", normed, heads * head), heads);
    attention.k = make.rotary(make.linear("k_proj", normed, kv_heads * head), kv_heads);
    attention.v = make.linear("v_proj", normed, kv_heads * head);
    attention.out = make.value("attended", heads * head);
    attention.heads = heads;
    attention.kv_heads = kv_heads;
    attention.head_dim = attention.value_dim = head;
    attention.scale = 1.0F / std::sqrt(static_cast<float>(head));
    const ValueId o = make.linear("o_proj", make.push(attention), hidden);
    const ValueId middle = make.push(AddOp{x, o, make.value("middle", hidden)});
    const ValueId fed = make.norm("post_attention_layernorm", middle);
    const std::uint64_t inner = hidden * 7 / 2;
    const ValueId gate = make.linear("gate_proj", fed, inner), up = make.linear("up_proj", fed, inner);
    const ValueId active = make.push(ActivationOp{gate, make.value("active", inner), Activation::silu});
    const ValueId product = make.push(MultiplyOp{active, up, make.value("product", inner)});
    const ValueId down = make.linear("down_proj", product, hidden);
    program.output = make.push(AddOp{middle, down, make.value("output", hidden)});
    program.name = "block";
  }

  void run() {
    Values values(program);
    values.at(program.input) = input;
    runner->run(0, program.ops.size(), batch, values);
  }
};

BenchmarkCase block_case(std::uint64_t width, ProductType type, int threads) {
  const auto block = std::make_shared<Block>(width, type, threads);
  const std::uint64_t tokens = block->batch.tokens();
  std::vector<std::function<void()>> limits;
  BenchmarkCase work;
  for (const Op& op : block->program.ops) {
    const auto* linear = std::get_if<LinearOp>(&op);
    if (linear == nullptr) continue;
    const LinearWeight& weight = linear->weights.front();
    limits.push_back(product_limit(tokens, weight.rows, weight.cols, type, threads));
    work.operations += 2.0 * static_cast<double>(tokens) * static_cast<double>(weight.rows * weight.cols);
  }
  work.limit_operations = work.operations;
  work.name = "forward";
  work.type = type == ProductType::bf16 ? "bf16" : "f32";
  work.shape = fmt::format("{} x {}, block of width {}", kSequences, kTokens, width);
  work.run = [block] { block->run(); };
  work.limit = [limits] {
    for (const auto& limit : limits) limit();
  };
  return work;
}

}  // namespace

std::vector<std::function<BenchmarkCase()>> forward_benchmarks(std::uint64_t width, int threads) {
  std::vector<std::function<BenchmarkCase()>> cases;
  for (const ProductType type : {ProductType::f32, ProductType::bf16}) {
    cases.emplace_back([=] { return block_case(width, type, threads); });
  }
  return cases;
}

}  // namespace quant
