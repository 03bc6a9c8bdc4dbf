// A checkpoint that is ternary already is packed without loss, and the report says so.
#include <algorithm>

#include "pipeline/fixture.h"
#include "quant/dequantize.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

RunReport pack(const std::filesystem::path& model, const std::filesystem::path& output) {
  const Recipe recipe =
      load_recipe(std::filesystem::path(QUANT_SOURCE_DIR) / "recipes" / "ternary.yaml", {}, builtin_registry());
  const auto checkpoint = open_checkpoint(model);
  PlanOptions options;
  options.layout = "libquant";
  const Plan plan = make_plan(*checkpoint, recipe, builtin_registry(), options);
  REQUIRE(plan.problems.empty());
  RunOptions run;
  run.output = output;
  return run_plan(plan, run);
}

std::size_t lossless_layers(const RunReport& report) {
  std::size_t count = 0;
  for (const LayerReport& layer : report.layers) {
    count += std::any_of(layer.notes.begin(), layer.notes.end(),
                         [](const std::string& note) { return note.starts_with("lossless"); })
                 ? 1
                 : 0;
  }
  return count;
}

}  // namespace

TEST_CASE("packing a ternary checkpoint is lossless, of another one not, and reports say which") {
  TempDir dir;
  test::write_tiny_model(dir / "model", {.hidden = 80, .intermediate = 120});
  const RunReport first = pack(dir / "model", dir / "packed");
  REQUIRE(first.layers.size() == 14);
  CHECK(lossless_layers(first) == 0);
  for (const LayerReport& layer : first.layers) {
    CHECK(summarize(layer.sums).sqnr_db > 3);
    CHECK(summarize(layer.sums).sqnr_db < 8);
    // Five to a byte, a scale per tensor.
    CHECK(layer.bits_per_weight == Approx(1.6).margin(16.0 / (40 * 80) + 1e-9));
  }
  const Container& container = *builtin_registry().container("safetensors");
  DequantizeOptions floats;
  floats.output = dir / "ternary";
  dequantize_checkpoint(*open_checkpoint(dir / "packed"), builtin_registry(), container, floats);
  const RunReport second = pack(dir / "ternary", dir / "again");
  CHECK(lossless_layers(second) == 14);
  for (const LayerReport& layer : second.layers) CHECK(layer.sums.noise == 0);
  CHECK(read_file(dir / "again" / "model.safetensors").substr(8) ==
        read_file(dir / "packed" / "model.safetensors").substr(8));
}
