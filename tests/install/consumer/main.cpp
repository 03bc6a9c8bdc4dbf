// Calls each installed library once: opens a checkpoint, reads a recipe, quantizes a matrix.
#include <quant/metrics.h>
#include <quant/open.h>
#include <quant/recipe_yaml.h>
#include <quant/registry.h>
#include <quant/rtn.h>
#include <quant/version.h>

#include <cstdio>
#include <exception>
#include <vector>

namespace {

int use(const char* model, const char* recipe_file) {
  quant::Registry registry;
  quant::register_builtin_algorithms(registry);
  quant::register_builtin_formats(registry);
  const quant::Recipe recipe = quant::load_recipe(recipe_file, {}, registry);
  const auto checkpoint = quant::open_checkpoint(model);
  const quant::TensorInfo* info = checkpoint->find("model.layers.0.mlp.up_proj.weight");
  if (info == nullptr || recipe.modifiers.empty()) return 1;

  const quant::TensorView weight = checkpoint->view(*info);
  const quant::QuantizedTensor result = quant::rtn_quantize(weight, *quant::preset_scheme("W8A16")->weights);
  std::vector<quant::ErrorSums> rows(result.rows);
  quant::measure_rows(weight, result, {.rows = rows, .group_signal = {}, .group_noise = {}});
  quant::ErrorSums total;
  for (const quant::ErrorSums& row : rows) total += row;
  const double sqnr = quant::summarize(total).sqnr_db;
  std::printf("quant %s: SQNR %.2f dB\n", quant::version().data(), sqnr);
  return sqnr > 30 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    return use(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
