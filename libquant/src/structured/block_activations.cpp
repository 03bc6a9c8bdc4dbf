#include "structured/block_activations.h"

#include <algorithm>
#include <cmath>

#include "linalg/parallel.h"

namespace quant::structured {
namespace {

std::uint64_t width_of(const Program& program, ValueId value) {
  return program.values[static_cast<std::size_t>(value)].width;
}

}  // namespace

std::vector<ExpertTokens> expert_tokens(std::span<const float> routing, const ExpertAxis& axis, std::uint64_t tokens) {
  std::vector<ExpertTokens> experts(axis.count);
  for (std::uint64_t t = 0; t < tokens; ++t) {
    const float* row = routing.data() + t * 2 * axis.top_k;
    for (std::uint64_t k = 0; k < axis.top_k; ++k) {
      ExpertTokens& expert = experts[static_cast<std::size_t>(row[k])];
      expert.tokens.push_back(t);
      expert.gates.push_back(row[axis.top_k + k]);
    }
  }
  return experts;
}

std::vector<ValueId> hidden_sites(const BlockAxes& axes) {
  std::vector<ValueId> sites;
  for (const Op& op : axes.program->ops) {
    const auto* linear = std::get_if<LinearOp>(&op);
    if (linear == nullptr || linear->routing >= 0) continue;
    const bool hidden = std::find(axes.hidden.begin(), axes.hidden.end(), linear->in) != axes.hidden.end();
    if (hidden && std::find(sites.begin(), sites.end(), linear->in) == sites.end()) sites.push_back(linear->in);
  }
  return sites;
}

BlockActivations::BlockActivations(const BlockAxes& axes, const ScoreRequest& request, int threads)
    : axes_(axes), program_(*axes.program), request_(request), threads_(threads) {
  const bool channels = request.units != UnitImportance::magnitude;
  if (channels && request.heads && axes.attention) {
    const bool norms = request.units == UnitImportance::activation;
    attention_.push_back({axes.attention->out, -1, norms ? axes.attention->value_dim : 0,
                          ChannelSums(norms ? axes.attention->heads : width_of(program_, axes.attention->out))});
    want(axes.attention->out);
  }
  for (std::size_t f = 0; channels && request.ffn && f < axes.ffn.size(); ++f) {
    const FfnAxis& ffn = axes.ffn[f];
    for (std::size_t e = 0; e < ffn.experts; ++e) {
      ffn_.push_back({ffn.value, ffn.experts > 1 ? static_cast<int>(e) : -1, 0, ChannelSums(ffn.width)});
    }
    want(ffn.value);
    if (ffn.experts > 1) want(axes.experts->routing);
  }
  for (const ValueId value : channels&& request.hidden ? hidden_sites(axes) : std::vector<ValueId>()) {
    hidden_.push_back({value, -1, 0, ChannelSums(width_of(program_, value))});
    want(value);
  }
  if (request.layers && request.layer == LayerImportance::cosine) want(program_.input), want(program_.output);
  if (request.experts && request.expert != ExpertImportance::magnitude && axes.experts) {
    want(axes.experts->routing);
    want(output_of(program_.ops[axes.experts->reader]));
    expert_sums_.assign(axes.experts->count, 0);
    expert_rows_.assign(axes.experts->count, 0);
  }
}

void BlockActivations::want(ValueId value) {
  if (value < 0 || std::find(wanted_.begin(), wanted_.end(), value) != wanted_.end()) return;
  wanted_.push_back(value);
}

void BlockActivations::add(const ChunkView& chunk) {
  std::vector<ExpertTokens> experts;
  if (axes_.experts && !chunk.values->at(axes_.experts->routing).empty()) {
    experts = expert_tokens(chunk.values->at(axes_.experts->routing), *axes_.experts, chunk.tokens);
  }
  for (auto* sites : {&attention_, &ffn_, &hidden_}) {
    for (Site& site : *sites) add_site(site, chunk, experts);
  }
  if (request_.layers && request_.layer == LayerImportance::cosine && program_.input >= 0) add_cosine(chunk);
  if (!expert_sums_.empty()) add_experts(chunk, experts);
}

void BlockActivations::add_site(Site& site, const ChunkView& chunk, const std::vector<ExpertTokens>& experts) {
  const std::vector<float>& all = chunk.values->at(site.value);
  const std::uint64_t width = width_of(program_, site.value);
  std::uint64_t row = 0;
  if (site.expert >= 0) {
    for (int e = 0; e < site.expert; ++e) row += experts[static_cast<std::size_t>(e)].tokens.size();
  }
  std::uint64_t end_token = 0;
  std::size_t at = 0;
  for (const std::uint64_t length : chunk.lengths) {
    std::uint64_t count = length;
    end_token += length;
    if (site.expert >= 0) {
      const auto& tokens = experts[static_cast<std::size_t>(site.expert)].tokens;
      const std::size_t begin = at;
      while (at < tokens.size() && tokens[at] < end_token) ++at;
      count = at - begin;
    }
    const std::span<const float> rows = std::span(all).subspan(row * width, count * width);
    row += count;
    if (site.piece == 0) {
      site.sums.add_sequence(rows, count, threads_);
    } else {
      site.sums.add_sequence(piece_norms(rows, count, site.piece, threads_), count, threads_);
    }
  }
}

void BlockActivations::add_cosine(const ChunkView& chunk) {
  const std::vector<float>& in = chunk.values->at(program_.input);
  const std::vector<float>& out = chunk.values->at(program_.output);
  const std::uint64_t width = width_of(program_, program_.input);
  std::vector<double> distances(chunk.tokens);
  constexpr std::uint64_t kTokens = 16;
  linalg::for_tasks(threads_, linalg::pieces(chunk.tokens, kTokens), [&](std::size_t task) {
    for (std::uint64_t t = task * kTokens; t < std::min(chunk.tokens, (task + 1) * kTokens); ++t) {
      double dot = 0, a = 0, b = 0;
      for (std::uint64_t c = t * width; c < (t + 1) * width; ++c) {
        dot += static_cast<double>(in[c]) * out[c];
        a += static_cast<double>(in[c]) * in[c];
        b += static_cast<double>(out[c]) * out[c];
      }
      distances[t] = a == 0 || b == 0 ? 1 : 1 - dot / std::sqrt(a * b);
    }
  });
  for (const double distance : distances) distance_ += distance;
  tokens_ += chunk.tokens;
}

void BlockActivations::add_experts(const ChunkView& chunk, const std::vector<ExpertTokens>& experts) {
  const ValueId value = output_of(program_.ops[axes_.experts->reader]);
  const std::uint64_t width = width_of(program_, value);
  const std::vector<float>& all = chunk.values->at(value);
  const std::vector<float> norms = piece_norms(all, all.size() / width, width, threads_);
  std::size_t row = 0;
  for (std::size_t e = 0; e < experts.size(); ++e) {
    for (const float gate : experts[e].gates) {
      const double norm = norms[row++];
      expert_sums_[e] += request_.expert == ExpertImportance::router ? norm * gate : norm;
    }
    expert_rows_[e] += experts[e].gates.size();
  }
}

std::vector<double> BlockActivations::scores_of(const Site& site, const ReaderColumns& reader_columns) const {
  if (request_.units == UnitImportance::activation) return site.sums.aggregated();
  std::vector<double> scores = site.sums.variances();
  const auto& columns = reader_columns.at({site.value, static_cast<std::size_t>(std::max(site.expert, 0))});
  for (std::size_t c = 0; c < scores.size(); ++c) scores[c] *= columns[c];
  return scores;
}

void BlockActivations::finish(const ReaderColumns& reader_columns, LayerScores& scores,
                              std::vector<double>& hidden) const {
  for (const Site& site : attention_) {
    const std::vector<double> of_columns = scores_of(site, reader_columns);
    const std::size_t each = of_columns.size() / axes_.attention->heads;
    scores.heads.assign(axes_.attention->heads, 0);
    scores.groups.assign(axes_.attention->kv_heads, 0);
    for (std::size_t c = 0; c < of_columns.size(); ++c) scores.heads[c / each] += of_columns[c];
    for (std::size_t h = 0; h < scores.heads.size(); ++h) {
      scores.groups[h / axes_.attention->group()] += scores.heads[h];
    }
  }
  if (!ffn_.empty()) scores.ffn.resize(axes_.ffn.size());
  std::size_t site = 0;
  for (std::size_t f = 0; f < scores.ffn.size() && !ffn_.empty(); ++f) {
    scores.ffn[f].clear();
    for (std::size_t e = 0; e < axes_.ffn[f].experts; ++e) {
      scores.ffn[f].push_back(scores_of(ffn_[site++], reader_columns));
    }
  }
  for (const Site& one : hidden_) {
    const std::vector<double> of_columns = scores_of(one, reader_columns);
    for (std::size_t c = 0; c < of_columns.size(); ++c) hidden[c] += of_columns[c];
  }
  if (tokens_ > 0) scores.layer = distance_ / static_cast<double>(tokens_);
  if (!expert_sums_.empty()) scores.experts.assign(expert_sums_.size(), 0);
  for (std::size_t e = 0; e < expert_sums_.size(); ++e) {
    if (expert_rows_[e] > 0) scores.experts[e] = expert_sums_[e] / static_cast<double>(expert_rows_[e]);
  }
}

}  // namespace quant::structured
