// What the forward pass makes of token sequences, for load_with_python.py: logits, or the last hidden states of models
// without a language-model head.
//   outputs_probe MODEL IDS.npy LENGTH OUT     float32 [sequences, LENGTH, width], without a header
#include <cstdio>
#include <exception>
#include <fstream>
#include <string>
#include <utility>

#include "quant/calibration_data.h"
#include "quant/error.h"
#include "quant/forward.h"
#include "quant/logical_tensors.h"
#include "quant/open.h"
#include "quant/registry.h"

namespace {

using namespace quant;

std::vector<float> run_part(const Program& program, const ModelWeights& weights, const Batch& batch,
                            std::vector<float> states) {
  ProgramRunner runner(program, weights, {});
  Values values(program);
  if (program.input >= 0) values.at(program.input) = std::move(states);
  runner.run(0, program.ops.size(), batch, values);
  return std::move(values.at(program.output));
}

void run(const char* model, const char* ids, std::uint64_t length, const char* file) {
  Registry registry;
  register_builtin_formats(registry);
  const auto checkpoint = open_checkpoint(model);
  const LogicalTensors tensors(*checkpoint, registry);
  const ModelWeights weights(tensors);
  const ModelProgram program = build_model_program(tensors);
  CalibrationOptions options;
  options.seq_len = length;
  std::ofstream out(file, std::ios::binary);
  for (const auto& sequence : read_sequences(ids, nullptr, options).sequences) {
    Batch batch;
    batch.lengths = {sequence.size()};
    batch.ids = sequence;
    std::vector<float> states = run_part(program.embeddings, weights, batch, {});
    for (const Program& block : program.blocks) states = run_part(block, weights, batch, std::move(states));
    states = run_part(program.head, weights, batch, std::move(states));
    out.write(reinterpret_cast<const char*>(states.data()),
              static_cast<std::streamsize>(states.size() * sizeof(float)));
  }
  if (!out.flush()) throw Error(ErrorCode::io, std::string(file) + " cannot be written");
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 5) {
    std::fprintf(stderr, "outputs_probe MODEL IDS.npy LENGTH OUT\n");
    return 2;
  }
  try {
    run(arguments[1], arguments[2], std::stoull(arguments[3]), arguments[4]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
