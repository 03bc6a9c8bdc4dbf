// Quantizes the linears of one decoder layer to 4 bits and writes them to one safetensors file:
//   quantize_layer MODEL LAYER OUTPUT.safetensors
#include <quant/error.h>
#include <quant/model.h>
#include <quant/open.h>
#include <quant/registry.h>
#include <quant/rtn.h>

#include <cstdio>
#include <string>
#include <vector>

namespace {

struct Linear {
  quant::LinearShape shape;
  const quant::TensorInfo* weight;
  std::size_t first_tensor;  // place of its first stored tensor in the file
};

// Passes a linear's bytes on to its tensors in the file.
class FileSink : public quant::StoredBytesSink {
 public:
  FileSink(quant::ContainerWriter& file, std::size_t first_tensor) : file_(file), first_tensor_(first_tensor) {}
  void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> data) override {
    file_.write(first_tensor_ + tensor, offset, data);
  }

 private:
  quant::ContainerWriter& file_;
  std::size_t first_tensor_;
};

// The linears of decoder layer `layer` that the layout can store, and in `tensors` what it will store for them.
std::vector<Linear> find_linears(const quant::Checkpoint& model, const std::string& layer, const quant::Scheme& scheme,
                                 const quant::Layout& layout, std::vector<quant::StoredTensor>& tensors) {
  std::vector<Linear> linears;
  for (const quant::Module& module : quant::outline_model(model).modules) {
    if (module.class_name != "Linear" || module.weight == nullptr) continue;
    if (module.name.find("layers." + layer + ".") == std::string::npos) continue;
    const quant::Shape& shape = module.weight->shape;
    Linear linear{{module.name, shape[0], shape[1], module.weight->dtype}, module.weight, tensors.size()};
    if (const auto reason = layout.unsupported(scheme, linear.shape)) {
      std::printf("%s: skipped, %s\n", module.name.c_str(), reason->c_str());
      continue;
    }
    for (quant::StoredTensor& tensor : layout.stored(scheme, linear.shape)) tensors.push_back(std::move(tensor));
    linears.push_back(std::move(linear));
  }
  return linears;
}

void quantize_layer(const char* model_path, const std::string& layer, const char* output) {
  quant::Registry registry;
  quant::register_builtin_formats(registry);
  const quant::Layout& layout = *registry.layout("compressed-tensors");
  const quant::Container& container = *registry.container("safetensors");
  const quant::Scheme scheme = *quant::preset_scheme("W4A16");
  const quant::QuantArgs& args = *scheme.weights;

  const auto model = quant::open_checkpoint(model_path);
  std::vector<quant::StoredTensor> tensors;
  const std::vector<Linear> linears = find_linears(*model, layer, scheme, layout, tensors);
  if (linears.empty()) throw quant::Error(quant::ErrorCode::usage, "the model has no linears in layer " + layer);

  const auto file = container.create(output, tensors, {{"format", "pt"}}, /*resume=*/false);
  const auto rtn = quant::make_rtn();
  quant::QuantizedTensor quantized;
  for (const Linear& linear : linears) {
    const quant::TensorView weight = model->view(*linear.weight);
    const quant::TensorParams params = rtn->prepare(weight, args, {}, /*threads=*/1);
    std::vector<quant::ErrorSums> rows(linear.shape.rows);
    rtn->quantize_rows(weight, args, layout.scale_dtype(args, linear.shape.dtype), params, {}, quantized,
                       {.rows = rows, .group_signal = {}, .group_noise = {}});
    FileSink sink(*file, linear.first_tensor);
    layout.write_rows(scheme, linear.shape, 0, quantized, sink);

    quant::ErrorSums total;
    for (const quant::ErrorSums& row : rows) total += row;
    const quant::WeightMetrics metrics = quant::summarize(total);
    std::printf("%-40s %-12s NMSE %.2e  SQNR %.2f dB\n", linear.shape.module.c_str(),
                quant::to_string(linear.weight->shape).c_str(), metrics.nmse, metrics.sqnr_db);
  }
  file->sync();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s MODEL LAYER OUTPUT.safetensors\n", argv[0]);
    return 2;
  }
  try {
    quantize_layer(argv[1], argv[2], argv[3]);
  } catch (const quant::Error& error) {
    std::fprintf(stderr, "error: %s\n%s\n", error.what(), error.hint().c_str());
    return 1;
  }
}
