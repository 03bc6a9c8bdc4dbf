// Every job of a batch planned before any runs, and which of them learn from one pass over their data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "quant/batch.h"
#include "quant/registry.h"
#include "quant/shared_statistics.h"

namespace quant::cli {

struct Session;

struct PlannedJob {
  const BatchJob* job = nullptr;
  std::string fingerprint;
  bool complete = false;  ///< already; nothing else is known then
  std::vector<std::string> problems;
  std::vector<std::string> warnings;
  std::uint64_t peak_memory = 0;  ///< 0: not known
  double seconds = 0;             ///< an estimate; 0: none
  int threads = 0;
  StatisticsDemand demand;
  std::string pass;  ///< name of the SharedPass that it learns from; empty: its own

  std::string problem_text() const;
};

/// A pass over data of which several jobs learn.
struct SharedPass {
  std::string name;  ///< as a job's, but begins with a dot, which no job's does
  std::string recipe_text;
  std::filesystem::path recipe;      ///< where its text goes
  std::filesystem::path output;      ///< what is thrown away
  std::filesystem::path statistics;  ///< what is kept until all its jobs have ended
  std::vector<std::string> arguments;
  std::vector<std::size_t> jobs;
  std::uint64_t peak_memory = 0;
  double seconds = 0;
  int threads = 0;
};

struct BatchPlan {
  std::vector<PlannedJob> jobs;  ///< one for each of the batch
  std::vector<SharedPass> passes;
};

/// `threads`: of a job that does not say. Mistakes of jobs are in PlannedJob::problems.
BatchPlan plan_batch(const JobBatch& batch, const BatchPaths& paths, int threads, Session& session, bool quiet);

}  // namespace quant::cli
