// What the activations of one block say of its units, collected chunk by chunk.
#pragma once

#include <map>
#include <vector>

#include "structured/channel_sums.h"
#include "structured/scores.h"
#include "structured/stream.h"

namespace quant::structured {

/// The tokens that each expert gets, in the order of its rows, and their weights.
struct ExpertTokens {
  std::vector<std::uint64_t> tokens;
  std::vector<float> gates;
};
std::vector<ExpertTokens> expert_tokens(std::span<const float> routing, const ExpertAxis& axis, std::uint64_t tokens);

class BlockActivations {
 public:
  BlockActivations(const BlockAxes& axes, const ScoreRequest& request, int threads);

  /// Values that add() reads.
  const std::vector<ValueId>& wanted() const { return wanted_; }
  void add(const ChunkView& chunk);

  /// `reader_columns`: sums of squares of the columns of the weights that read a value (for flap), by value and expert.
  using ReaderColumns = std::map<std::pair<ValueId, std::size_t>, std::vector<double>>;
  void finish(const ReaderColumns& reader_columns, LayerScores& scores, std::vector<double>& hidden) const;

 private:
  struct Site {
    ValueId value;
    int expert;               // -1: all rows
    std::uint64_t piece = 0;  // > 0: norms of pieces of that many columns instead of columns
    ChannelSums sums;
  };
  void want(ValueId value);
  void add_site(ValueId value, int expert, std::uint64_t piece);
  void add_site(Site& site, const ChunkView& chunk, const std::vector<ExpertTokens>& experts);
  void add_cosine(const ChunkView& chunk);
  void add_experts(const ChunkView& chunk, const std::vector<ExpertTokens>& experts);
  std::vector<double> scores_of(const Site& site, const ReaderColumns& reader_columns) const;

  const BlockAxes& axes_;
  const Program& program_;
  const ScoreRequest& request_;
  int threads_;
  std::vector<Site> attention_, ffn_, hidden_;
  std::vector<ValueId> wanted_;
  double distance_ = 0;  // sum over tokens of 1 - cos
  std::uint64_t tokens_ = 0;
  std::vector<double> expert_sums_;
  std::vector<std::uint64_t> expert_rows_;
};

/// The values that linears outside of experts read of the residual stream.
std::vector<ValueId> hidden_sites(const BlockAxes& axes);

}  // namespace quant::structured
