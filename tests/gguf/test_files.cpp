// GGUF files: read as the package gguf writes them, written for llama.cpp, and hostile ones.
#include <cstring>
#include <nlohmann/json.hpp>

#include "quant/error.h"
#include "quant/gguf.h"
#include "quant/gguf_quantizer.h"
#include "quant/open.h"
#include "quant/registry.h"
#include "quant/rtn.h"
#include "quant/statistics_file.h"
#include "support/catch.h"
#include "support/memory_checkpoint.h"
#include "support/temp_dir.h"

using namespace quant;
using namespace quant::test;

namespace {

const std::filesystem::path kGolden = QUANT_SOURCE_DIR "/tests/gguf/golden";
const std::filesystem::path kExample = QUANT_SOURCE_DIR "/examples/tiny-llama-novels";

const Registry& registry() {
  static const Registry filled = [] {
    Registry made;
    register_builtin_formats(made);
    return made;
  }();
  return filled;
}

std::string metadata(const Checkpoint& checkpoint, const std::string& key) {
  for (const auto& [name, value] : checkpoint.files().front().metadata) {
    if (name == key) return value;
  }
  return "missing";
}

// What opening says of a file with these bytes: the kind of the error, or "opened".
std::string kind_of(const std::string& bytes) {
  const TempDir dir(memory_folder());
  write_file(dir / "x.gguf", bytes);
  try {
    const auto checkpoint = open_checkpoint(dir / "x.gguf");
    const LogicalTensors tensors(*checkpoint, registry());
    return "opened";
  } catch (const Error& error) {
    CHECK((error.code() == ErrorCode::corrupt_file || error.code() == ErrorCode::unsupported));
    return "refused";
  }
}

std::vector<float> values_of(const LogicalTensors& tensors, const LogicalTensor& tensor) {
  std::vector<float> values(tensor.count());
  tensors.read_rows(tensor, 0, tensor.rows, values);
  return values;
}

// Every tensor of `a` is in `b` with the same values.
void check_same(const Checkpoint& a, const Checkpoint& b) {
  const LogicalTensors first(a, registry()), second(b, registry());
  CHECK(first.tensors().size() == second.tensors().size());
  for (const LogicalTensor& tensor : first.tensors()) {
    CAPTURE(tensor.name);
    const LogicalTensor* other = second.find(tensor.name);
    REQUIRE(other != nullptr);
    CHECK(other->shape == tensor.shape);
    CHECK(values_of(first, tensor) == values_of(second, *other));
  }
}

GgufExportResult exported(const Checkpoint& checkpoint, const std::filesystem::path& output,
                          std::optional<BlockType> type = {}) {
  GgufExportOptions options;
  options.output = output;
  options.type = type;
  return export_gguf(checkpoint, registry(), options);
}

}  // namespace

TEST_CASE("values of every type and tensors are read as the package gguf writes them") {
  const auto file = open_checkpoint(kGolden / "values.gguf");
  CHECK(metadata(*file, "a.u8") == "200");
  CHECK(metadata(*file, "a.i8") == "-5");
  CHECK(metadata(*file, "a.u16") == "60000");
  CHECK(metadata(*file, "a.i16") == "-300");
  CHECK(metadata(*file, "a.u32") == "4000000000");
  CHECK(metadata(*file, "a.i32") == "-70000");
  CHECK(metadata(*file, "a.f32") == "1.5");
  CHECK(metadata(*file, "a.bool") == "true");
  CHECK(metadata(*file, "a.text") == "gr\u00fc\u00df");
  CHECK(metadata(*file, "a.texts") == "array of 3 texts");
  CHECK(metadata(*file, "a.u64") == "1099511627776");
  CHECK(metadata(*file, "a.i64") == "-1099511627776");
  CHECK(metadata(*file, "a.f64") == "0.1");
  const LogicalTensors tensors(*file, registry());
  REQUIRE(tensors.find("plain") != nullptr);
  CHECK(tensors.find("plain")->shape == Shape{2, 3});
  CHECK(values_of(tensors, *tensors.find("plain")) == std::vector<float>{0, 1, 2, 3, 4, 5});
  CHECK(values_of(tensors, *tensors.find("half")) == std::vector<float>{0, 1, 2, 3, 4});
  REQUIRE(tensors.find("blocks.weight") != nullptr);
  CHECK(tensors.find("blocks.weight")->shape == Shape{2, 32});
  // Bytes 0 and 1 of the first block are its scale, 0x0100; the others its codes.
  CHECK(values_of(tensors, *tensors.find("blocks.weight"))[3] == f16_to_f32(0x0100) * 5);
}

TEST_CASE("files of importance are read under the names of the model's weights") {
  const auto file = open_checkpoint(kGolden / "imatrix.gguf");
  const TensorInfo* info = file->find("model.layers.0.self_attn.q_proj.weight");
  REQUIRE(info != nullptr);
  std::vector<float> values(4);
  read_f32(file->view(*info), 0, values);
  CHECK(values == std::vector<float>{1, 2, 3, 4});
}

TEST_CASE("statistics become importance files of both forms, and come back") {
  const TempDir dir;
  InputStatistics inputs;
  inputs.tokens = 10;
  inputs.cols = 2;
  inputs.gram = {3, 1, 1, 5};
  const std::string q = "model.layers.1.self_attn.q_proj", down = "model.layers.1.mlp.down_proj";
  write_statistics(dir / "s.h5", {}, {{q, inputs}, {down, inputs}});
  export_imatrix(dir / "s.h5", dir / "s.gguf", ImatrixForm::gguf);
  export_imatrix(dir / "s.h5", dir / "s.dat", ImatrixForm::legacy);
  for (const char* name : {"s.gguf", "s.dat"}) {
    CAPTURE(name);
    const auto file = open_checkpoint(dir / name);
    CHECK(file->tensors().size() == 2);
    for (const std::string& module : {q, down}) {
      const TensorInfo* info = file->find(module + ".weight");
      REQUIRE(info != nullptr);
      std::vector<float> values(2);
      read_f32(file->view(*info), 0, values);
      CHECK(values[0] == Approx(3));
      CHECK(values[1] == Approx(5));
    }
  }
  const std::string bytes = read_file(dir / "s.dat");
  for (std::size_t cut = 0; cut + 24 < bytes.size(); cut += 3) {
    write_file(dir / "cut.dat", bytes.substr(0, cut));
    CHECK_THROWS_AS(open_checkpoint(dir / "cut.dat"), Error);
  }
}

TEST_CASE("the example model keeps its values through a GGUF file of floats") {
  const TempDir dir;
  const auto model = open_checkpoint(kExample);
  const GgufExportResult result = exported(*model, dir / "m.gguf");
  CHECK(result.remarks.empty());
  CHECK(result.bytes_after == std::filesystem::file_size(dir / "m.gguf"));
  const auto file = open_checkpoint(dir / "m.gguf");
  check_same(*model, *file);
  CHECK(metadata(*file, "general.architecture") == "llama");
  CHECK(metadata(*file, "tokenizer.ggml.tokens") == "array of 4096 texts");
  CHECK(metadata(*file, "tokenizer.ggml.pre") == "gpt-2");
  CHECK(metadata(*file, "tokenizer.ggml.bos_token_id") == "0");
  CHECK(metadata(*file, "llama.attention.head_count_kv") == "4");
  const auto config = nlohmann::json::parse(file->config().text);
  CHECK(config["num_hidden_layers"] == 6);
  CHECK(config["rms_norm_eps"] == 1e-5);
  CHECK(config["tie_word_embeddings"] == true);
}

TEST_CASE("rows of queries and keys are those that llama.cpp's converter writes") {
  const TempDir dir;
  const auto model = open_checkpoint(kExample);
  exported(*model, dir / "m.gguf");
  const auto file = open_checkpoint(dir / "m.gguf");
  const std::string name = "model.layers.2.self_attn.k_proj.weight";
  const TensorView before = model->view(*model->find(name)), after = file->view(*file->find(name));
  const std::size_t row = 512, head = 32;  // bytes; rows
  // The converter: reshape(heads, 2, head / 2, cols).swapaxes(1, 2).
  for (std::size_t r = 0; r < 128; ++r) {
    const std::size_t local = r % head, from = r - local + local % 2 * (head / 2) + local / 2;
    CHECK(std::memcmp(after.bytes.data() + r * row, before.bytes.data() + from * row, row) == 0);
  }
}

TEST_CASE("blocks pass from file to file unchanged") {
  const TempDir dir;
  const auto model = open_checkpoint(kExample);
  const GgufExportResult first = exported(*model, dir / "a.gguf", BlockType::q4_k);
  CHECK(first.matrices.size() == 43);
  for (const GgufMatrix& matrix : first.matrices) CHECK((!matrix.moved && matrix.sums.noise > 0));
  const auto file = open_checkpoint(dir / "a.gguf");
  const GgufExportResult second = exported(*file, dir / "b.gguf");
  CHECK(second.matrices.size() == 43);
  for (const GgufMatrix& matrix : second.matrices) CHECK(matrix.moved);
  CHECK(second.remarks.size() == 1);  // the tokenizer's own files are not beside a GGUF file
  check_same(*file, *open_checkpoint(dir / "b.gguf"));
}

TEST_CASE("integer codes and MXFP4 move into blocks without rounding") {
  std::vector<float> weights(8 * 128);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = static_cast<float>(static_cast<int>(i * 2654435761U % 2001U) - 1000) / 4096.0F;
  }
  const TensorView view = f32_view(weights, 8, 128);
  const auto integer = [](int bits, bool symmetric, std::int64_t group) {
    QuantArgs args;
    args.num_bits = bits;
    args.symmetric = symmetric;
    args.strategy = Strategy::group;
    args.group_size = group;
    args.scale_dtype = DType::F16;
    return args;
  };
  QuantArgs mx;
  mx.num_bits = 4;
  mx.type = NumberType::floating;
  mx.strategy = Strategy::group;
  mx.group_size = 32;
  mx.scale_dtype = DType::U8;
  const std::vector<std::pair<QuantArgs, BlockType>> cases = {{integer(4, true, 32), BlockType::q4_0},
                                                              {integer(3, true, 64), BlockType::q4_0},
                                                              {integer(8, true, 128), BlockType::q8_0},
                                                              {mx, BlockType::mxfp4}};
  for (const auto& [args, type] : cases) {
    CAPTURE(describe(args));
    const QuantizedTensor quantized = rtn_quantize(view, args);
    REQUIRE(lossless_block_type(args, 128) == type);
    const QuantizedTensor blocks = move_to_blocks(quantized, type);
    std::vector<float> before(128), after(128);
    for (std::uint64_t r = 0; r < 8; ++r) {
      dequantize_row(quantized, r, before);
      dequantize_row(blocks, r, after);
      CHECK(before == after);
    }
  }
  QuantizedTensor fine = rtn_quantize(view, integer(4, true, 32));
  fine.scales[3] = 0.1F;  // no half-precision number
  CHECK_THROWS_AS(move_to_blocks(fine, BlockType::q4_0), Error);
  CHECK_FALSE(lossless_block_type(integer(6, false, 32), 128));
  CHECK_FALSE(lossless_block_type(integer(4, true, 48), 96));
}

TEST_CASE("families and files that have no place are refused with a sentence") {
  const TempDir dir;
  MemoryCheckpoint model;
  model.mutable_config() = parse_model_config(R"({"model_type": "opt"})", "config.json");
  CHECK_THROWS_AS(exported(model, dir / "x.gguf"), Error);
  const auto example = open_checkpoint(kExample);
  write_file(dir / "there.gguf", "kept");
  CHECK_THROWS_AS(exported(*example, dir / "there.gguf"), Error);
  CHECK(read_file(dir / "there.gguf") == "kept");
  CHECK_FALSE(std::filesystem::exists(dir / "there.gguf.partial"));
}

TEST_CASE("hostile files are refused or read, never more") {
  const std::string good = read_file(kGolden / "values.gguf");
  CHECK(kind_of(good) == "opened");
  for (std::size_t cut = 4; cut < good.size() - 40; cut += 7) CHECK(kind_of(good.substr(0, cut)) == "refused");
  // Any byte of the header may be anything.
  for (std::size_t at = 4; at < 900 && at < good.size(); at += 3) {
    for (const char value : {'\0', '\x7F', '\xFF'}) {
      std::string bad = good;
      bad[at] = value;
      kind_of(bad);
    }
  }
  std::string many = good;
  const std::uint64_t huge = ~std::uint64_t{0};
  std::memcpy(many.data() + 8, &huge, 8);
  CHECK(kind_of(many) == "refused");
  std::memcpy(many.data() + 16, &huge, 8);
  CHECK(kind_of(many) == "refused");
  std::string version = good;
  version[4] = 1;
  CHECK(kind_of(version) == "refused");
}
