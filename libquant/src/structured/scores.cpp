#include "structured/scores.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "quant/error.h"
#include "structured/block_activations.h"

namespace quant::structured {
namespace {

// Sums of squares of a program's weights by channel: of all but experts, and of each expert.
struct BlockEnergies {
  std::vector<double> channels;
  std::vector<std::vector<double>> of_expert;
  BlockActivations::ReaderColumns reader_columns;
  std::vector<double> expert_total;
  double written = 0;  // of the weights that write to the residual stream
};

class Scorer {
 public:
  Scorer(const ModelAxes& axes, const ModelProgram& program, const ModelWeights& weights, const ScoreRequest& request,
         int threads, const StreamContext* context)
      : axes_(axes), program_(program), weights_(weights), request_(request), threads_(threads), context_(context) {
    scores_.hidden.assign(request.hidden ? program.hidden : 0, 0);
    scores_.of_layer.resize(axes.blocks.size());
  }

  Scores run(const std::function<void(std::size_t)>& begin_block) {
    std::optional<ResidualStream> stream;
    const auto nothing = [](const ChunkView&) {};
    if (request_.needs_data()) {
      stream.emplace(*context_);
      stream->run(program_.embeddings, weights_, program_.embeddings.ops.size(), {}, true, nothing);
    }
    for (std::size_t b = 0; b < axes_.blocks.size(); ++b) {
      begin_block(b);
      LayerScores& scores = scores_.of_layer[b];
      BlockEnergies energies;
      if (request_.needs_weights()) energies = measure(axes_.blocks[b]);
      if (request_.needs_weights()) take(axes_.blocks[b], energies, scores);
      if (stream) {
        BlockActivations activations(axes_.blocks[b], request_, threads_);
        stream->run(program_.blocks[b], weights_, program_.blocks[b].ops.size(), activations.wanted(), true,
                    [&](const ChunkView& chunk) { activations.add(chunk); });
        activations.finish(energies.reader_columns, scores, scores_.hidden);
      }
      check(b);
    }
    if (request_.hidden) finish_hidden(stream ? &*stream : nullptr);
    return std::move(scores_);
  }

 private:
  BlockEnergies measure(const BlockAxes& axes) const {
    BlockEnergies sums;
    sums.channels.assign(axes.channels.size(), 0);
    for (const Op& op : axes.program->ops) {
      if (const auto* linear = std::get_if<LinearOp>(&op)) measure(axes, *linear, sums);
    }
    return sums;
  }

  void measure(const BlockAxes& axes, const LinearOp& op, BlockEnergies& sums) const {
    const bool writes = std::find(axes.hidden.begin(), axes.hidden.end(), op.out) != axes.hidden.end();
    const bool experts = op.routing >= 0;
    if (experts && sums.of_expert.empty()) {
      sums.of_expert.assign(op.weights.size(), std::vector<double>(axes.channels.size()));
      sums.expert_total.assign(op.weights.size(), 0);
    }
    for (std::size_t e = 0; e < op.weights.size(); ++e) {
      const LinearWeight& weight = op.weights[e];
      const Energies energies = energies_of(weights_.read(weight, threads_), weight.rows, weight.cols, threads_);
      std::vector<double>& channels = experts ? sums.of_expert[e] : sums.channels;
      for (std::uint64_t r = 0; r < weight.rows; ++r) channels[axes.channels.channel(op.out, r)] += energies.rows[r];
      for (std::uint64_t c = 0; c < weight.cols; ++c) channels[axes.channels.channel(op.in, c)] += energies.cols[c];
      const double total = std::accumulate(energies.rows.begin(), energies.rows.end(), 0.0);
      if (writes) sums.written += total;
      if (experts) sums.expert_total[e] += total;
      add_reader(axes, op, e, energies.cols, sums);
    }
  }

  // What an expert reads of the residual stream counts for the value that its rows were gathered from.
  static void add_reader(const BlockAxes& axes, const LinearOp& op, std::size_t expert,
                         const std::vector<double>& columns, BlockEnergies& sums) {
    std::pair<ValueId, std::size_t> key{op.in, expert};
    for (const Op& other : axes.program->ops) {
      const auto* gather = std::get_if<GatherOp>(&other);
      if (gather != nullptr && gather->out == op.in) key = {gather->in, 0};
    }
    std::vector<double>& sum = sums.reader_columns[key];
    sum.resize(columns.size());
    for (std::size_t c = 0; c < columns.size(); ++c) sum[c] += columns[c];
  }

  void take(const BlockAxes& axes, const BlockEnergies& energies, LayerScores& scores) {
    if (request_.layers && request_.layer == LayerImportance::magnitude) scores.layer = std::sqrt(energies.written);
    if (request_.experts && request_.expert == ExpertImportance::magnitude && axes.experts) {
      for (const double total : energies.expert_total) scores.experts.push_back(std::sqrt(total));
    }
    if (request_.units != UnitImportance::magnitude) return;
    if (request_.heads && axes.attention) take_heads(axes, energies, scores);
    for (const FfnAxis& ffn : request_.ffn ? axes.ffn : std::vector<FfnAxis>()) {
      scores.ffn.emplace_back();
      for (std::size_t e = 0; e < ffn.experts; ++e) {
        const std::vector<double>& channels = is_expert(axes, ffn) ? energies.of_expert[e] : energies.channels;
        std::vector<double> of_width(ffn.width);
        for (std::uint64_t c = 0; c < ffn.width; ++c) {
          of_width[c] = std::sqrt(channels[axes.channels.channel(ffn.value, c)]);
        }
        scores.ffn.back().push_back(std::move(of_width));
      }
    }
    if (!request_.hidden) return;
    for (std::size_t c = 0; c < scores_.hidden.size(); ++c) {
      const std::uint32_t channel = axes.channels.channel(axes.hidden.front(), c);
      scores_.hidden[c] += energies.channels[channel];
      for (const auto& expert : energies.of_expert) scores_.hidden[c] += expert[channel];
    }
  }

  static bool is_expert(const BlockAxes& axes, const FfnAxis& ffn) {
    return std::get<LinearOp>(axes.program->ops[ffn.reader]).routing >= 0;
  }

  static void take_heads(const BlockAxes& axes, const BlockEnergies& energies, LayerScores& scores) {
    const AttentionAxis& attention = *axes.attention;
    const auto of_piece = [&](ValueId value, std::uint64_t piece, std::uint64_t size) {
      double sum = 0;
      for (std::uint64_t c = piece * size; c < (piece + 1) * size; ++c) {
        sum += energies.channels[axes.channels.channel(value, c)];
      }
      return sum;
    };
    std::vector<double> groups(attention.kv_heads);
    for (std::uint64_t g = 0; g < attention.kv_heads; ++g) {
      groups[g] = of_piece(attention.k, g, attention.head_dim) + of_piece(attention.v, g, attention.value_dim);
    }
    for (std::uint64_t h = 0; h < attention.heads; ++h) {
      const double sum = of_piece(attention.q, h, attention.head_dim) + of_piece(attention.out, h, attention.value_dim);
      scores.heads.push_back(std::sqrt(sum));
      groups[h / attention.group()] += sum;
    }
    for (const double sum : groups) scores.groups.push_back(std::sqrt(sum));
  }

  // Embeddings and head: their tables' columns, and what the head reads.
  void finish_hidden(ResidualStream* stream) {
    BlockActivations::ReaderColumns columns;
    if (request_.needs_weights()) columns = measure_tables();
    if (request_.units == UnitImportance::magnitude) {
      for (double& score : scores_.hidden) score = std::sqrt(score);
      return;
    }
    std::size_t last = 0;
    while (last < program_.head.ops.size() && !std::holds_alternative<LinearOp>(program_.head.ops[last])) ++last;
    BlockActivations activations(axes_.head, request_, threads_);
    if (stream == nullptr || last == program_.head.ops.size() || activations.wanted().empty()) return;
    stream->run(program_.head, weights_, last, activations.wanted(), false,
                [&](const ChunkView& chunk) { activations.add(chunk); });
    LayerScores ignored;
    activations.finish(columns, ignored, scores_.hidden);
    check_numbers(scores_.hidden, "the residual stream");
  }

  BlockActivations::ReaderColumns measure_tables() {
    BlockActivations::ReaderColumns columns;
    std::set<std::string> seen;
    for (const BlockAxes* axes : {&axes_.embeddings, &axes_.head}) {
      for (const Op& op : axes->program->ops) {
        if (const auto* table = std::get_if<EmbeddingOp>(&op)) {
          const std::vector<double> sums = table_columns(table->weight);
          if (seen.insert(table->weight).second) add_hidden(*axes, table->out, sums);
        } else if (const auto* linear = std::get_if<LinearOp>(&op)) {
          const LinearWeight& weight = linear->weights.front();
          const std::vector<double> sums =
              weight.transposed ? energies_of(weights_.read(weight, threads_), weight.rows, weight.cols, threads_).cols
                                : table_columns(weight.tensor);
          columns[{linear->in, 0}] = sums;
          if (seen.insert(weight.tensor).second) add_hidden(*axes, linear->in, sums);
        }
      }
    }
    return columns;
  }

  void add_hidden(const BlockAxes& axes, ValueId value, const std::vector<double>& sums) {
    const bool hidden = std::find(axes.hidden.begin(), axes.hidden.end(), value) != axes.hidden.end();
    if (!hidden || request_.units != UnitImportance::magnitude) return;
    for (std::size_t c = 0; c < scores_.hidden.size(); ++c) scores_.hidden[c] += sums[c];
  }

  // A table may be the largest tensor by far.
  std::vector<double> table_columns(const std::string& tensor) const {
    constexpr std::uint64_t kRows = 4096;
    const LogicalTensor& table = *weights_.tensors().find(tensor);
    std::vector<double> sums(table.cols);
    for (std::uint64_t r = 0; r < table.rows; r += kRows) {
      const std::uint64_t count = std::min(kRows, table.rows - r);
      std::vector<float> values(count * table.cols);
      weights_.read_rows(tensor, r, count, values);
      const Energies energies = energies_of(values, count, table.cols, threads_);
      for (std::uint64_t c = 0; c < table.cols; ++c) sums[c] += energies.cols[c];
    }
    return sums;
  }

  void check(std::size_t block) const {
    const LayerScores& scores = scores_.of_layer[block];
    const std::string& name = program_.blocks[block].name;
    check_numbers(scores.heads, name);
    check_numbers(scores.experts, name);
    check_numbers(std::vector<double>{scores.layer}, name);
    for (const auto& ffn : scores.ffn) {
      for (const auto& expert : ffn) check_numbers(expert, name);
    }
    check_numbers(scores_.hidden, name);
  }

  static void check_numbers(const std::vector<double>& scores, const std::string& where) {
    if (std::all_of(scores.begin(), scores.end(), [](double score) { return std::isfinite(score); })) return;
    throw Error(
        ErrorCode::numerical,
        fmt::format("the scores of '{}' are not all finite: its weights, or what it computes of the calibration "
                    "data, hold infinities or what is no number",
                    where),
        "repair the checkpoint");
  }

  const ModelAxes& axes_;
  const ModelProgram& program_;
  const ModelWeights& weights_;
  const ScoreRequest& request_;
  int threads_;
  const StreamContext* context_;
  Scores scores_;
};

}  // namespace

bool ScoreRequest::needs_weights() const {
  const bool channels = (heads || ffn || hidden) && units != UnitImportance::activation;
  return channels || (layers && layer == LayerImportance::magnitude) ||
         (experts && expert == ExpertImportance::magnitude);
}

bool ScoreRequest::needs_data() const {
  const bool channels = (heads || ffn || hidden) && units != UnitImportance::magnitude;
  return channels || (layers && layer != LayerImportance::magnitude) ||
         (experts && expert != ExpertImportance::magnitude);
}

Scores score_units(const ModelAxes& axes, const ModelProgram& program, const ModelWeights& weights,
                   const ScoreRequest& request, int threads, const StreamContext* context,
                   const std::function<void(std::size_t block)>& begin_block) {
  return Scorer(axes, program, weights, request, threads, context).run(begin_block);
}

Units best_units(const std::vector<double>& scores, std::uint64_t count) {
  Units order = all_units(scores.size());
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return scores[a] > scores[b]; });
  order.resize(std::min<std::size_t>(order.size(), count));
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace quant::structured
