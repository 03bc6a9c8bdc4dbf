// Files that nobody vouches for: each ends in an Error that names what is wrong.
#include <functional>
#include <limits>

#include "quant/error.h"
#include "support.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;
using Json = nlohmann::json;

namespace {

const Layout& layout() { return layout_named("libquant"); }

QuantArgs sparse_codebook() {
  QuantArgs args = codebook_args(Codebook::learned, 3, Strategy::group, 16);
  args.outlier_percent = 5;
  return args;
}

MemoryCheckpoint valid() {
  return stored_checkpoint(layout(), sparse_codebook(), random_tensor(layout(), sparse_codebook(), 6, 40, 3));
}

std::string error_of(const MemoryCheckpoint& checkpoint) { return read_error(layout(), checkpoint); }

std::string config_error(const std::function<void(Json&)>& change) {
  MemoryCheckpoint checkpoint = valid();
  Json config = Json::parse(checkpoint.config().quantization_config);
  change(config);
  checkpoint.mutable_config().quantization_config = config.dump();
  return error_of(checkpoint);
}

bool mentions(const std::string& text, std::string_view part) {
  INFO(text);
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("every tensor that is missing, of another type or of another shape is named") {
  CHECK(error_of(valid()).empty());
  const MemoryCheckpoint good = valid();
  for (const TensorInfo& info : good.tensors()) {
    MemoryCheckpoint checkpoint = valid();
    checkpoint.remove(info.name);
    CHECK(mentions(error_of(checkpoint), info.name));
    checkpoint = valid();
    const DType other = info.dtype == DType::U8 ? DType::I8 : DType::F64;
    checkpoint.set(info.name, other, info.shape, std::vector<std::byte>(byte_count(other, info.shape)));
    CHECK(mentions(error_of(checkpoint), info.name));
    checkpoint = valid();
    Shape shape = info.shape;
    shape.back() += 1;
    checkpoint.set(info.name, info.dtype, shape, std::vector<std::byte>(byte_count(info.dtype, shape)));
    CHECK(mentions(error_of(checkpoint), info.name));
  }
}

TEST_CASE("sparse rows that do not ascend, leave the matrix or pass the end are refused") {
  const auto with = [](const char* name, std::size_t at, std::uint32_t value, std::size_t width) {
    MemoryCheckpoint checkpoint = valid();
    std::memcpy(checkpoint.bytes(name).data() + at * width, &value, width);
    return error_of(checkpoint);
  };
  CHECK(mentions(with("m.weight_sparse_starts", 0, 1, 4), "weight_sparse_starts"));
  CHECK(mentions(with("m.weight_sparse_starts", 6, 13, 4), "weight_sparse_starts"));
  CHECK(mentions(with("m.weight_sparse_starts", 3, 0xFFFFFFFFU, 4), "weight_sparse_starts"));
  CHECK(mentions(with("m.weight_sparse_starts", 6, 11, 4), "ends with 11 where there are 12 entries"));
  CHECK(mentions(with("m.weight_sparse_columns", 0, 40, 2), "weight_sparse_columns"));
  CHECK(mentions(with("m.weight_sparse_columns", 11, 65535, 2), "weight_sparse_columns"));
  CHECK(mentions(with("m.weight_sparse_values", 2, 0x7C00, 2), "weight_sparse_values"));
  CHECK(mentions(with("m.weight_codebook", 9, 0x7E00, 2), "weight_codebook"));
}

TEST_CASE("a byte that no five ternary codes make is refused") {
  QuantArgs args;
  args.num_bits = 2;
  args.strategy = Strategy::channel;
  args.observer_kwargs["symmetric_range"] = std::string("restricted");
  const QuantizedTensor tensor = random_tensor(layout(), args, 3, 12, 5);
  MemoryCheckpoint checkpoint = stored_checkpoint(layout(), args, tensor);
  CHECK(error_of(checkpoint).empty());
  checkpoint.bytes("m.weight_codes")[4] = std::byte{243};
  CHECK(mentions(error_of(checkpoint), "m.weight_codes holds 243 in row 1"));
  checkpoint = stored_checkpoint(layout(), args, tensor);
  Json config = Json::parse(checkpoint.config().quantization_config);
  config["groups"]["group_0"]["weights"]["symmetric_range"] = "narrow";
  checkpoint.mutable_config().quantization_config = config.dump();
  CHECK(mentions(error_of(checkpoint), "symmetric_range"));
}

TEST_CASE("a config.json with wrong keys is refused by their names") {
  const std::string weights = "/groups/group_0/weights";
  const auto set = [&](const std::string& pointer, const Json& value) {
    return config_error([&](Json& config) { config[Json::json_pointer(pointer)] = value; });
  };
  CHECK(mentions(set("/version", 3), "version"));
  CHECK(mentions(set("/version", "1"), "version"));
  CHECK(mentions(config_error([](Json& config) { config.erase("linears"); }), "linears"));
  CHECK(mentions(config_error([](Json& config) { config.erase("groups"); }), "groups"));
  CHECK(mentions(set("/linears", Json::array()), "linears"));
  CHECK(mentions(set("/linears/m/group", "other"), "other"));
  CHECK(mentions(set("/linears/m/shape", {6}), "shape"));
  CHECK(mentions(set("/linears/m/shape", {0, 40}), "shape"));
  CHECK(mentions(set("/linears/m/shape", {-6, 40}), "shape"));
  CHECK(mentions(set("/linears/m/shape", {std::numeric_limits<std::uint64_t>::max(), 40}), "shape"));
  CHECK(!set("/linears/m/shape", {std::uint64_t{1} << 47, std::uint64_t{1} << 47}).empty());
  CHECK(mentions(set("/linears/m/dtype", "float4"), "dtype"));
  CHECK(
      mentions(set("/linears/n", {{"group", "group_0"}, {"shape", {6, 40}}, {"dtype", "float16"}}), "n.weight_codes"));
  CHECK(mentions(config_error([](Json& config) { config["linears"].erase("m"); }), "m.weight_codes"));
  CHECK(mentions(set(weights + "/num_bits", 0), "num_bits"));
  CHECK(mentions(set(weights + "/num_bits", 400), "num_bits"));
  CHECK(mentions(set(weights + "/type", "float"), "type"));
  CHECK(mentions(set(weights + "/codebook", "nf5"), "codebook"));
  CHECK(mentions(set(weights + "/strategy", "flat"), "strategy"));
  CHECK(mentions(set(weights + "/group_size", 0), "group_size"));
  CHECK(mentions(set(weights + "/outlier_percent", 51), "outlier_percent"));
  CHECK(mentions(set(weights + "/outlier_percent", "5"), "outlier_percent"));
  CHECK(mentions(set(weights + "/scale_dtype", "uint8"), "scale"));
  CHECK(mentions(set(weights + "/double_quant", true), "double_quant"));
  MemoryCheckpoint deep = valid();
  deep.mutable_config().quantization_config = std::string(100000, '[');
  CHECK(!error_of(deep).empty());
  CHECK(!layout().recognizes(deep.config()));
}
