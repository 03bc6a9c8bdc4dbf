#include "structured/stream.h"

namespace quant::structured {

void ResidualStream::run(const Program& program, const ModelWeights& weights, std::size_t last,
                         std::span<const ValueId> wanted, bool goes_on,
                         const std::function<void(const ChunkView&)>& visit) {
  ProgramRunner runner(program, weights, context_.forward);
  for (std::size_t c = 0; c < context_.work->chunks.size(); ++c) {
    leave_if_stopped(context_.stop);
    const TokenChunk& part = context_.work->chunks[c];
    ChunkView view;
    view.number = c;
    view.tokens = part.tokens;
    std::vector<std::int32_t> ids;
    for (std::size_t s = part.first; s < part.first + part.count; ++s) {
      const auto& sequence = context_.work->data.sequences[s];
      view.lengths.push_back(sequence.size());
      ids.insert(ids.end(), sequence.begin(), sequence.end());
    }
    Batch batch;
    batch.lengths = view.lengths;
    batch.ids = ids;
    Values values(program);
    if (program.input >= 0) values.at(program.input) = store_.take(c);
    runner.run(0, last, batch, values, wanted);
    view.values = &values;
    visit(view);
    if (goes_on) store_.put(c, std::move(values.at(program.output)));
    if (context_.progress) context_.progress(0);
  }
}

}  // namespace quant::structured
