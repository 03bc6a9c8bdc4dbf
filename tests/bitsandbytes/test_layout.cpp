// The layout bitsandbytes: round trips, what it refuses, and files that nobody vouches for.
#include <functional>

#include "native_layout/support.h"
#include "quant/error.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

const Layout& layout() { return layout_named("bitsandbytes"); }

QuantArgs nf4(std::int64_t block, bool nested, Strategy strategy = Strategy::flat) {
  QuantArgs args = codebook_args(Codebook::nf4, 4, strategy, block);
  args.double_quant = nested;
  return args;
}

std::string error_of(const MemoryCheckpoint& checkpoint) { return read_error(layout(), checkpoint); }

MemoryCheckpoint valid() {
  return stored_checkpoint(layout(), nf4(32, true), random_tensor(layout(), nf4(32, true), 6, 40, 3));
}

void set_state(MemoryCheckpoint& checkpoint, const std::string& text) {
  checkpoint.set("m.weight.quant_state.bitsandbytes__nf4", DType::U8, {text.size()}, std::as_bytes(std::span(text)));
}

}  // namespace

TEST_CASE("what is written is read back, at once and in slices") {
  for (const auto& [rows, cols] : {std::pair<std::uint64_t, std::uint64_t>{1, 1}, {7, 51}, {12, 64}, {33, 20}}) {
    for (const bool nested : {false, true}) {
      for (const std::int64_t block : {32, 4096}) {
        INFO(rows << "x" << cols << " blocks of " << block << (nested ? " nested" : ""));
        const QuantArgs args = nf4(block, nested);
        Scheme scheme;
        scheme.weights = args;
        const LinearShape linear{"m", rows, cols, DType::F16};
        const QuantizedTensor tensor = random_tensor(layout(), args, rows, cols, 5);
        const std::uint64_t unit = std::lcm(scale_row_alignment(args, cols), layout().row_alignment(scheme));
        const CountingSink whole = store(layout(), scheme, linear, tensor);
        CHECK(whole.complete());
        CHECK(store(layout(), scheme, linear, tensor, std::min(unit, rows)).bytes == whole.bytes);
        const MemoryCheckpoint checkpoint = stored_checkpoint(layout(), args, tensor);
        REQUIRE(layout().recognizes(checkpoint.config()));
        const auto linears = layout().find_linears(checkpoint);
        REQUIRE(linears.size() == 1);
        CHECK(linears[0].tensors.size() == checkpoint.tensors().size());
        const std::uint64_t step = layout().read_alignment(linears[0]);
        std::vector<float> expected(cols), values(cols);
        QuantizedTensor back;
        for (std::uint64_t first = 0; first < rows; first += step) {
          layout().read_rows(checkpoint, linears[0], first, std::min(step, rows - first), back);
          for (std::uint64_t r = 0; r < back.rows; ++r) {
            dequantize_row(back, r, values);
            dequantize_row(tensor, first + r, expected);
            CHECK(values == expected);
          }
        }
      }
    }
  }
}

TEST_CASE("what bitsandbytes has no place for is refused") {
  Scheme scheme;
  const LinearShape linear{"m", 8, 48, DType::F16};
  CHECK(layout().unsupported(scheme, linear));
  const auto refused = [&](const QuantArgs& args, std::string_view part) {
    scheme.weights = args;
    const auto reason = layout().unsupported(scheme, linear);
    INFO(reason.value_or("accepted"));
    return reason && reason->find(part) != std::string::npos;
  };
  CHECK(refused(codebook_args(Codebook::learned, 4, Strategy::channel), "nf4"));
  CHECK(refused(nf4(16, false), "16"));
  CHECK(refused(nf4(96, false), "96"));
  CHECK(refused(nf4(32, false, Strategy::group), "strategy flat"));
  CHECK(refused(codebook_args(Codebook::nf4, 4, Strategy::channel), "channel"));
  QuantArgs args = nf4(32, false);
  args.outlier_percent = 1;
  CHECK(refused(args, "sparse"));
  args.outlier_percent = 0;
  args.scale_dtype = DType::F16;
  CHECK(refused(args, "float32"));
  scheme.weights = nf4(32, false);
  CHECK(!layout().unsupported(scheme, linear));
  Scheme other;
  other.weights = codebook_args(Codebook::fp4, 4, Strategy::flat, 32);
  CHECK_THROWS_AS(layout().config_json({}, {{"a", scheme, {}}, {"b", other, {}}}, {}), Error);
  const auto problems = layout().contradictions({{"a", scheme, {}}, {"b", other, {}}, {"c", scheme, {}}});
  REQUIRE(problems.size() == 1);
  CHECK(problems[0].find("a is nf4 and b is fp4") != std::string::npos);
  CHECK(layout().contradictions({}).empty());
}

TEST_CASE("nothing ignored is an empty list: null would mean loaders' default, which leaves the head out") {
  Scheme scheme;
  scheme.weights = nf4(64, false);
  const auto config = nlohmann::json::parse(layout().config_json({}, {{"a", scheme, {}}}, {}));
  CHECK(config.at("quantization_config").at("llm_int8_skip_modules") == nlohmann::json::array());
}

TEST_CASE("damaged tensors and states are named") {
  CHECK(error_of(valid()).empty());
  const MemoryCheckpoint good = valid();
  for (const TensorInfo& info : good.tensors()) {
    INFO(info.name);
    MemoryCheckpoint checkpoint = valid();
    checkpoint.remove(info.name);
    if (info.name.find("quant_state") != std::string::npos) {
      CHECK(error_of(checkpoint).find("has no quant_state") != std::string::npos);
      continue;  // may have any length
    }
    CHECK(error_of(checkpoint).find(info.name) != std::string::npos);
    checkpoint = valid();
    Shape shape = info.shape;
    shape.front() += 1;
    checkpoint.set(info.name, info.dtype, shape, std::vector<std::byte>(byte_count(info.dtype, shape)));
    CHECK(error_of(checkpoint).find(info.name) != std::string::npos);
  }
  for (
      const char* text :
      {"", "{", "[]", "{}", R"({"quant_type": "fp4", "blocksize": 32, "dtype": "float16", "shape": [6, 40]})",
       R"({"quant_type": "nf4", "blocksize": 0, "dtype": "float16", "shape": [6, 40]})",
       R"({"quant_type": "nf4", "blocksize": -32, "dtype": "float16", "shape": [6, 40]})",
       R"({"quant_type": "nf4", "blocksize": 32, "dtype": "int8", "shape": [6, 40]})",
       R"({"quant_type": "nf4", "blocksize": 32, "dtype": "float16", "shape": [6]})",
       R"({"quant_type": "nf4", "blocksize": 32, "dtype": "float16", "shape": [0, 40]})",
       R"({"quant_type": "nf4", "blocksize": 32, "dtype": "float16", "shape": [140737488355328, 140737488355328]})",
       R"({"quant_type": "nf4", "blocksize": 32, "dtype": "float16", "shape": [6, 40], "nested_blocksize": 64, "nested_offset": 1})",
       R"({"quant_type": "nf4", "blocksize": 32, "dtype": "float16", "shape": [6, 40], "nested_blocksize": 256, "nested_offset": "x"})",
       R"({"quant_type": "nf4", "blocksize": 32, "dtype": "float16", "shape": [6, 40], "nested_blocksize": 256, "nested_offset": 1e300})"}) {
    INFO(text);
    MemoryCheckpoint checkpoint = valid();
    set_state(checkpoint, text);
    CHECK(error_of(checkpoint).find("m.weight") != std::string::npos);
  }
  MemoryCheckpoint infinite = valid();
  const float bad = std::numeric_limits<float>::infinity();
  std::memcpy(infinite.bytes("m.weight.nested_absmax").data(), &bad, 4);
  CHECK(error_of(infinite).find("nested_absmax") != std::string::npos);
}
