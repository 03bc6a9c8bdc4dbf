// A batch of models and recipes: the jobs of a file, what came of each, and all of them side by side. Running them is
// left to whoever reads this (`quant batch`); quant/claims.h shares them out among processes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quant/recipe.h"

namespace quant {

class Claims;

inline constexpr int kBatchVersion = 1;         ///< of job files
inline constexpr int kBatchSummaryVersion = 1;  ///< of summaries and outcomes

/// How a value of a job file is written.
enum class BatchValue { text, path, size, count, number, flag };

/// An option of `quant run` or `quant convert` that a job may have: "seq_len" stands for --seq-len.
struct BatchOption {
  std::string_view key;
  BatchValue value;
  bool decides;  ///< the output depends on it; not so on threads and memory
};
const std::vector<BatchOption>& batch_run_options();
const std::vector<BatchOption>& batch_convert_options();

/// What is given, by key; flags are "true" or "false", paths are absolute or relative to the working directory.
using BatchOptions = std::map<std::string, std::string>;

/// A conversion of a job's output.
struct BatchConversion {
  std::string to;
  std::string output;
  BatchOptions options;
};

struct BatchJob {
  std::string name;  ///< unique; good as a name of a file
  std::string model_name;
  std::string recipe_name;
  std::string model;                       ///< path
  std::string recipe;                      ///< path, or name of a ready recipe
  std::string output;                      ///< path
  std::map<std::string, std::string> set;  ///< variables of the recipe
  BatchOptions options;
  std::optional<BatchConversion> convert;
  SourceLocation where;  ///< in the job file
};

/// What jobs may take together of one machine; texts as in the file, empty where nothing is given.
struct BatchMachine {
  std::string memory;
  int threads = 0;  ///< 0: all
  int jobs = 0;     ///< at once; 0: as many as memory and threads allow
};

struct JobBatch {
  std::string file;
  std::filesystem::path root;  ///< folder of the outputs: state and summary are here
  BatchMachine machine;
  bool share_statistics = true;
  std::vector<BatchJob> jobs;  ///< in the order of the file: the matrix by models, then the list
};

/// Where a batch keeps what it knows.
struct BatchPaths {
  explicit BatchPaths(const std::filesystem::path& root);
  std::filesystem::path state;  ///< <root>/.quant-batch
  std::filesystem::path json;   ///< <root>/batch.json
  std::filesystem::path html;   ///< <root>/batch.html
  std::filesystem::path outcome(std::string_view job) const;
  std::filesystem::path log(std::string_view job) const;
};

/// Makes state and its parents, and tries whether files can be made there. Throws Error{io}.
void make_batch_folders(const BatchPaths& paths);

/// Hash of all that decides a job's result: options, the text of the recipe, and names, sizes and times of the files of
/// model and data. Files that are not there count as such, so that a job changes once they are.
std::string job_fingerprint(const BatchJob& job, const std::filesystem::path& recipe_file);
/// True for two fingerprints that differ, if at all, in the files of the model alone.
bool same_but_for_files(std::string_view one, std::string_view other);

enum class JobState {
  waiting,      ///< nothing was done yet
  running,      ///< by some process
  interrupted,  ///< begun, and no process works on it: the next goes on with it
  failed,
  refused,  ///< its plan has problems
  complete
};
std::string_view to_string(JobState state);

/// What is compared between jobs, from the report of a finished one. NaN: not measured.
struct JobFigures {
  std::uint64_t bytes_before = 0;
  std::uint64_t bytes_after = 0;  ///< of tensors
  double bits_per_weight = 0;     ///< of quantized linears
  double bits_per_parameter = 0;  ///< of the whole model
  double nmse = 0;                ///< of quantized weights
  double output_error = 0;        ///< mean relative error of layers' outputs
  double perplexity = 0, base_perplexity = 0, divergence = 0;
  std::uint64_t layers = 0;
  std::uint64_t fallbacks = 0;
  double seconds = 0;             ///< of the run that wrote the report
  std::uint64_t peak_memory = 0;  ///< likewise, resident
};
/// Of <output>/report.json. Throws as load_report.
JobFigures read_figures(const std::filesystem::path& output);

/// What came of one job; kept in a file of its own while and after it runs.
struct JobOutcome {
  std::string job;
  std::string fingerprint;
  JobState state = JobState::waiting;
  std::string attempt;  ///< what else a partial output depends on
  std::string error;    ///< why it failed or was refused
  std::string hint;
  int exit_code = 0;
  double seconds = 0;             ///< wall time, all attempts since the last failure
  std::uint64_t peak_memory = 0;  ///< resident, the largest of any attempt
  std::string host;
  std::string finished;            ///< UTC
  bool shared_statistics = false;  ///< learnt from a pass shared with other jobs
  std::uint64_t converted_bytes = 0;
  std::optional<JobFigures> figures;
};
/// Null if there is none. Throws Error{io, corrupt_file}.
std::optional<JobOutcome> read_outcome(const BatchPaths& paths, std::string_view job);
/// Replaces the file at once. Throws Error{io}.
void write_outcome(const BatchPaths& paths, const JobOutcome& outcome);

/// A job and where it stands.
struct JobRow {
  std::string name, model, recipe, output, converted;
  JobOutcome outcome;
  bool on_front = false;  ///< no job of the same model is smaller and as good, or better and as small
};
struct BatchSummary {
  std::string file;
  std::string written;  ///< UTC
  std::vector<JobRow> rows;
  std::size_t count(JobState state) const;
  bool all_complete() const { return count(JobState::complete) == rows.size(); }
};

/// What quality means for the jobs of one model: the first of these that all its complete jobs have.
enum class Quality { perplexity, output_error, weight_error, none };
/// "perplexity", "relative error of outputs", "NMSE of weights".
std::string_view title(Quality quality);
/// The smaller the better.
double quality_of(const JobFigures& figures, Quality quality);
Quality common_quality(const std::vector<const JobFigures*>& jobs);
/// Marks points (size, loss) that no other beats: no other is at most as large and at most as bad, and one of both
/// strictly less. Equal points are marked together; points that are not finite never.
std::vector<bool> pareto_front(const std::vector<std::pair<double, double>>& points);

/// Reads all outcomes; `problems`: of jobs that were refused just now, by name. A job that was running and that no live
/// process claims is interrupted.
BatchSummary summarize_batch(const JobBatch& batch, const std::map<std::string, std::string>& problems,
                             const Claims& claims);
std::string summary_to_json(const BatchSummary& summary);
/// One self-contained page, as report_to_html.
std::string summary_to_html(const BatchSummary& summary);
/// Replaces batch.json and batch.html, each at once. Throws Error{io}.
void write_summary(const BatchPaths& paths, const BatchSummary& summary);

}  // namespace quant
