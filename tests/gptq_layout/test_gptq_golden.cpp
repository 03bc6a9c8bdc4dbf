// The layout gptq against GPTQModel's own packer, and against words worked out by hand.
#include "gptq_layout/support.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

const Layout& layout() { return layout_named("gptq"); }

const GoldenFile& golden() {
  static const GoldenFile file(golden_path("gptq.safetensors"));
  return file;
}

// The scales of the file are [groups, rows].
void take_scales(const std::string& name, QuantizedTensor& tensor) {
  const auto halves = golden().values<std::uint16_t>(name + ".scales");
  for (std::uint64_t r = 0; r < tensor.rows; ++r) {
    for (std::uint64_t g = 0; g < tensor.grid.cols; ++g) {
      tensor.scales[r * tensor.grid.cols + g] = f16_to_f32(halves[g * tensor.rows + r]);
    }
  }
}

MemoryCheckpoint packed(const std::string& name, const nlohmann::json& item) {
  MemoryCheckpoint checkpoint;
  for (const char* part : {"qweight", "qzeros", "scales", "g_idx"}) {
    checkpoint.set(std::string("m.") + part, golden().tensor(name + "." + part));
  }
  nlohmann::json config = {{"quant_method", "gptq"},
                           {"bits", item.at("bits")},
                           {"group_size", item.at("group")},
                           {"sym", item.at("symmetric")},
                           {"desc_act", item.at("ordered")},
                           {"checkpoint_format", item.at("version")},
                           {"meta", {{"quantizer", {"gptqmodel:7.7.0"}}}}};
  checkpoint.mutable_config().quantization_config = config.dump();
  return checkpoint;
}

std::vector<std::uint32_t> words_of(const std::vector<std::byte>& bytes) {
  std::vector<std::uint32_t> words(bytes.size() / 4);
  std::memcpy(words.data(), bytes.data(), bytes.size());
  return words;
}

}  // namespace

TEST_CASE("files of GPTQModel are read as what was packed, and written again as the same bytes") {
  const auto cases = golden_list(golden_path("gptq.safetensors"), "gptq");
  REQUIRE(cases.size() == 32);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const auto& item = cases[i];
    const std::string name = std::to_string(i);
    INFO(item.dump());
    QuantizedTensor expected = golden_tensor(golden(), name, item, item.at("bits"));
    take_scales(name, expected);
    const MemoryCheckpoint checkpoint = packed(name, item);
    REQUIRE(layout().recognizes(checkpoint.config()));
    const ReadBack back = read_back(layout(), checkpoint);
    CHECK(back.linear.format == item.at("version"));
    CHECK(back.linear.args.symmetric == item.at("symmetric").get<bool>());
    CHECK(same_tensor(back.tensor, expected));
    const auto index = golden().values<std::int32_t>(name + ".g_idx");
    CHECK((back.tensor.group_index.empty() ? !item.at("ordered").get<bool>() : back.tensor.group_index == index));

    Scheme scheme = scheme_of(back.linear.args);
    scheme.format = item.at("version").get<std::string>();
    // Zero points of 0 in version 1 are refused; see the test of the two ways in which files have them.
    const bool asymmetric_v1 = item.at("version") == "gptq" && !item.at("symmetric") && item.at("least") == 0;
    if (asymmetric_v1) continue;
    const MemoryCheckpoint again = stored_checkpoint(layout(), scheme, back.linear.shape, back.tensor);
    for (const char* part : {"m.qweight", "m.qzeros", "m.scales", "m.g_idx"}) {
      INFO(part);
      const auto view = again.view(*again.find(part)), wanted = checkpoint.view(*checkpoint.find(part));
      CHECK((view.shape == wanted.shape && view.dtype == wanted.dtype));
      CHECK(std::equal(view.bytes.begin(), view.bytes.end(), wanted.bytes.begin(), wanted.bytes.end()));
    }
  }
}

TEST_CASE("words of known codes: 2, 3, 4 and 8 bits along inputs") {
  const std::vector<std::pair<int, std::vector<std::uint32_t>>> known = {
      {2, {0xE4E4E4E4}}, {3, {0x88FAC688, 0xC688FAC6, 0xFAC688FA}}, {4, {0x76543210}}, {8, {0x03020100}}};
  for (const auto& [bits, words] : known) {
    INFO(bits << " bits");
    // Column i holds i modulo 4 (2 and 8 bits) or 8; the words hold the first of them.
    QuantizedTensor tensor;
    tensor.resize(integer_args(bits, true, 32), 32, 32);
    const int period = bits == 2 || bits == 8 ? 4 : 8;
    for (std::size_t i = 0; i < tensor.codes.size(); ++i) {
      tensor.codes[i] = static_cast<std::int8_t>(static_cast<int>(i % 32) % period - (1 << (bits - 1)));
    }
    std::fill(tensor.scales.begin(), tensor.scales.end(), 1.0F);
    const Scheme scheme = scheme_of(tensor.args);
    const LinearShape linear{"m", 32, 32, DType::F16};
    const auto stored = words_of(store(layout(), scheme, linear, tensor).bytes[0]);
    for (std::size_t w = 0; w < words.size(); ++w) {
      for (std::size_t row = 0; row < 32; ++row) CHECK(stored[w * 32 + row] == words[w]);
    }
  }
}

TEST_CASE("symmetric zero points are the constants that every reader knows") {
  const std::vector<std::tuple<int, std::vector<std::uint32_t>, std::vector<std::uint32_t>>> known = {
      {2, {0x55555555}, {0xAAAAAAAA}},
      {3, {0xDB6DB6DB, 0xB6DB6DB6, 0x6DB6DB6D}, {0x24924924, 0x49249249, 0x92492492}},
      {4, {0x77777777}, {0x88888888}},
      {8, {0x7F7F7F7F}, {0x80808080}}};
  for (const auto& [bits, v1, v2] : known) {
    const QuantArgs args = integer_args(bits, true, 32);
    const QuantizedTensor tensor = random_tensor(layout(), args, 32, 64, 3);
    const LinearShape linear{"m", 32, 64, DType::F16};
    for (const bool second : {false, true}) {
      INFO(bits << " bits, version " << (second ? 2 : 1));
      Scheme scheme = scheme_of(args);
      if (second) scheme.format = "gptq_v2";
      const auto words = words_of(store(layout(), scheme, linear, tensor).bytes[1]);
      const auto& wanted = second ? v2 : v1;
      for (std::size_t w = 0; w < words.size(); ++w) CHECK(words[w] == wanted[w % wanted.size()]);
    }
  }
}
