#include "evaluate/eval_loop.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <thread>

#include "quant/error.h"

namespace quant::evaluate {
namespace {

// Shares of the progress of one group: what the head takes is more for small models, less for large ones.
constexpr double kHeadShare = 0.15;
constexpr std::uint64_t kLogitBytes = 64'000'000;
constexpr std::uint64_t kMostRows = 256;
constexpr std::uint64_t kFewestRows = 64;

/// Reports at most ten times a second.
class Progress {
 public:
  Progress(const EvalOptions& options, std::uint64_t total) : options_(options), total_(total) {}
  void update(double tokens) {
    if (options_.stop != nullptr && *options_.stop)
      throw Error(ErrorCode::interrupted, "the evaluation was interrupted");
    if (!options_.progress) return;
    const auto now = std::chrono::steady_clock::now();
    const auto done = std::min(total_, static_cast<std::uint64_t>(tokens));
    if (now - last_ < std::chrono::milliseconds(100) && done < total_) return;
    last_ = now;
    options_.progress(done, total_);
  }

 private:
  const EvalOptions& options_;
  std::uint64_t total_;
  std::chrono::steady_clock::time_point last_{};
};

std::uint64_t count_tokens(Sequences sequences) {
  std::uint64_t tokens = 0;
  for (const auto& sequence : sequences) tokens += sequence.size();
  return tokens;
}

/// One past the last sequence of the group that begins at `first`.
std::size_t group_end(Sequences sequences, std::size_t first, std::uint64_t most_tokens) {
  std::uint64_t tokens = sequences[first].size();
  std::size_t end = first + 1;
  while (end < sequences.size() && tokens + sequences[end].size() <= most_tokens) tokens += sequences[end++].size();
  return end;
}

struct Group {
  Sequences sequences;
  std::size_t first = 0;                 // of all sequences
  std::span<const WantedRow> rows;       // those of this group
  std::uint64_t first_row = 0;           // place of rows[0] among all rows
  std::vector<std::uint64_t> positions;  // of the rows among the tokens of this group
};

void locate_rows(Group& group) {
  std::vector<std::uint64_t> start(group.sequences.size() + 1, 0);
  for (std::size_t s = 0; s < group.sequences.size(); ++s) start[s + 1] = start[s] + group.sequences[s].size();
  group.positions.clear();
  for (const WantedRow& row : group.rows) group.positions.push_back(start[row.sequence - group.first] + row.token);
}

/// Logits of both models for some rows, and their reduction.
class ChunkReducer {
 public:
  ChunkReducer(LogitModel& model, LogitModel* base, int threads, const RowFunction& reduce)
      : model_(model), base_(base), threads_(threads), reduce_(reduce), scratch_(static_cast<std::size_t>(threads)) {}

  void run(const Group& group, std::size_t begin, std::size_t end) {
    const std::uint64_t width = model_.vocabulary();
    const auto positions = std::span(group.positions).subspan(begin, end - begin);
    model_logits_.resize(positions.size() * width);
    model_.logits(positions, model_logits_);
    if (base_ != nullptr) {
      base_logits_.resize(positions.size() * width);
      base_->logits(positions, base_logits_);
    }
    const auto count = static_cast<std::int64_t>(positions.size());
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads_)
    for (std::int64_t i = 0; i < count; ++i) {
      const auto r = static_cast<std::size_t>(i);
      const auto row = [&](const std::vector<float>& all) {
        return all.empty() ? std::span<const float>() : std::span<const float>(all).subspan(r * width, width);
      };
      reduce_(group.first_row + begin + r, group.rows[begin + r], row(base_logits_), row(model_logits_),
              scratch_[static_cast<std::size_t>(omp_get_thread_num())]);
    }
  }

 private:
  LogitModel& model_;
  LogitModel* base_;
  int threads_;
  const RowFunction& reduce_;
  std::vector<std::vector<double>> scratch_;
  std::vector<float> model_logits_;
  std::vector<float> base_logits_;
};

}  // namespace

int thread_count(int threads) {
  const int available = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return threads <= 0 ? available : std::min(threads, std::max(8, available));
}

std::uint64_t logit_rows(std::uint64_t vocabulary) {
  const std::uint64_t row_bytes = std::max<std::uint64_t>(1, vocabulary) * sizeof(float);
  return std::clamp(kLogitBytes / row_bytes, kFewestRows, kMostRows);
}

void throw_not_finite(const LogitModel& model, const WantedRow& row, bool base) {
  const std::string text = fmt::format("the {} gives logits that are not finite: window {}, token {}",
                                       base ? "base" : "model", row.sequence + 1, row.token + 1);
  const std::string weights = model.non_finite_weights();
  if (!weights.empty()) {
    throw Error(ErrorCode::numerical, text + "\n" + weights, "repair the checkpoint", "LogitsNotFinite");
  }
  throw Error(ErrorCode::numerical, text,
              "'quant inspect --stats' finds NaN and infinite weights; values beyond FP16 also come from a model that "
              "was quantized badly",
              "LogitsNotFinite");
}

void check_sequences(const LogitModel& model, const LogitModel* base, Sequences sequences) {
  if (sequences.empty()) throw Error(ErrorCode::usage, "there are no token sequences to evaluate");
  const std::uint64_t vocabulary = model.vocabulary();
  if (base != nullptr && base->vocabulary() != vocabulary) {
    throw Error(ErrorCode::usage,
                fmt::format("the model has {} tokens in its vocabulary, the base {}: their predictions cannot be "
                            "compared",
                            vocabulary, base->vocabulary()),
                "name the model that this one was made from as the base", "VocabularyMismatch");
  }
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    if (sequences[s].size() < 2) {
      throw Error(ErrorCode::usage, fmt::format("sequence {} has {} token{}; at least 2 are needed to predict one",
                                                s + 1, sequences[s].size(), sequences[s].size() == 1 ? "" : "s"));
    }
    for (std::size_t t = 0; t < sequences[s].size(); ++t) {
      const std::int32_t id = sequences[s][t];
      if (id >= 0 && static_cast<std::uint64_t>(id) < vocabulary) continue;
      throw Error(ErrorCode::usage,
                  fmt::format("token {} of sequence {} has the id {}, outside the model's vocabulary of {}", t + 1,
                              s + 1, id, vocabulary),
                  "the text was made into ids by the tokenizer of another model", "TokenOutOfRange");
    }
  }
}

void for_each_row(LogitModel& model, LogitModel* base, Sequences sequences, std::span<const WantedRow> rows,
                  const EvalOptions& options, const RowFunction& reduce) {
  Progress progress(options, count_tokens(sequences));
  ChunkReducer reducer(model, base, thread_count(options.threads), reduce);
  const std::uint64_t most = std::min(model.group_tokens(), base == nullptr ? ~std::uint64_t{0} : base->group_tokens());
  double done = 0;
  std::uint64_t next_row = 0;
  for (std::size_t first = 0; first < sequences.size();) {
    const std::size_t end = group_end(sequences, first, most);
    Group group{sequences.subspan(first, end - first), first, {}, next_row, {}};
    while (next_row < rows.size() && rows[next_row].sequence < end) ++next_row;
    group.rows = rows.subspan(group.first_row, next_row - group.first_row);
    locate_rows(group);
    const auto tokens = static_cast<double>(count_tokens(group.sequences));
    const double share = (1 - kHeadShare) / (base == nullptr ? 1 : 2);
    const auto report = [&](double before) {
      return [&, before](double part) { progress.update(done + tokens * (before + share * part)); };
    };
    if (base != nullptr) base->run(group.sequences, report(0));
    model.run(group.sequences, report(base == nullptr ? 0 : share));
    const std::size_t chunk = logit_rows(model.vocabulary());
    for (std::size_t r = 0; r < group.rows.size(); r += chunk) {
      reducer.run(group, r, std::min(group.rows.size(), r + chunk));
      const double part = static_cast<double>(r) / static_cast<double>(group.rows.size());
      progress.update(done + tokens * (1 - kHeadShare * (1 - part)));
    }
    done += tokens;
    progress.update(done);
    first = end;
  }
}

}  // namespace quant::evaluate
