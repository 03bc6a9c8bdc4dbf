// Executes a plan of structured pruning.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "output/files.h"
#include "output/model_files.h"
#include "output/partial_directory.h"
#include "pipeline/finish.h"
#include "pipeline/memory_watch.h"
#include "quant/error.h"
#include "structured/compensation.h"
#include "structured/output_model.h"
#include "structured/report.h"
#include "structured/work.h"

namespace quant {
namespace structured {
namespace {

class StructuredRun {
 public:
  StructuredRun(const StructuredPlan& plan, const RunOptions& options)
      : plan_(runnable(plan)),
        work_(*plan.work),
        options_(options),
        directory_(options.output, existing(options), "--overwrite-partial starts over") {
    if (directory_.resumed()) directory_.clear();  // there is nothing to go on with
    context_.work = &work_.calibration;
    context_.stop = options.stop;
    context_.progress = [this](double) { tick(); };
    context_.forward.threads = plan.resources.threads;
    if (!plan.calibration) return;
    context_.forward.product = plan.calibration->product;
    budget_.emplace(directory_.path(), plan.calibration->activation_bytes);
    context_.budget = &*budget_;
  }

  RunReport execute() {
    try {
      directory_.require_space(plan_.output_bytes);
      return make();
    } catch (...) {
      directory_.remove();
      throw;
    }
  }

 private:
  static const StructuredPlan& runnable(const StructuredPlan& plan) {
    if (plan.problems.empty()) return plan;
    throw Error(ErrorCode::usage, "the plan has problems and cannot run: " + plan.problems.front());
  }
  static PartialDirectory::Existing existing(const RunOptions& options) {
    if (options.resume) return PartialDirectory::Existing::resume;
    return options.overwrite_partial ? PartialDirectory::Existing::discard : PartialDirectory::Existing::refuse;
  }

  RunReport make() {
    MemoryWatch watch;
    count_passes();
    const ModelWeights weights(work_.calibration.tensors);
    const Scores scores = score_units(
        *work_.axes, work_.calibration.program, weights, work_.request, plan_.resources.threads,
        plan_.calibration ? &context_ : nullptr,
        [this](std::size_t block) { begin(block, "scores of " + work_.calibration.program.blocks[block].name); });
    const KeptUnits kept = choose_units(work_, scores);
    const SmallerModel smaller = make_smaller(plan_, kept);
    const Container& container = *plan_.registry->container(plan_.resources.container);
    const OutputLayout layout = lay_out(*plan_.checkpoint, smaller.cuts, container, plan_.resources.shard_bytes);
    OutputModel output(*plan_.checkpoint, smaller.cuts, layout, container, directory_.path());
    CompensationResult compensation;
    if (plan_.options.compensation != Compensation::none) compensation = fit(kept, output);
    begin(work_.axes->blocks.size(), "writing");
    leave_if_stopped();
    output.write_rest(plan_.resources.threads, options_.stop);
    output.sync();
    RunReport report = make_report(plan_, kept, smaller.cuts, compensation);
    report.peak_memory_measured = std::max(watch.close(), anonymous_memory());
    write_small_files(report, smaller, layout, structure_json(plan_, kept, scores));
    directory_.commit();
    return report;
  }

  CompensationResult fit(const KeptUnits& kept, OutputModel& output) {
    CompensationInput input;
    input.plan = &plan_;
    input.axes = &*work_.axes;
    input.program = &work_.calibration.program;
    input.tensors = &work_.calibration.tensors;
    input.model = &*work_.model;
    input.kept = &kept;
    input.biases = work_.biases;
    input.bias_keys = work_.bias_keys;
    input.context = &context_;
    input.output = &output;
    input.begin = [this](std::size_t block, const std::string& what) { begin(block, what); };
    return compensate(input);
  }

  // Progress counts passes of a chunk through a layer.
  void count_passes() {
    progress_.blocks = work_.axes->blocks.size();
    const auto chunks = static_cast<double>(work_.calibration.chunks.size());
    const auto blocks = static_cast<double>(progress_.blocks + 1);
    const bool data = work_.request.needs_data();
    const bool fits = plan_.options.compensation != Compensation::none;
    progress_.operations_total = chunks * blocks * ((data ? 1 : 0) + (fits ? 3 : 0));
    progress_.tensors_total = plan_.checkpoint->tensors().size();
  }

  void leave_if_stopped() const {
    if (options_.stop == nullptr || !options_.stop->load()) return;
    throw Error(ErrorCode::interrupted, "stopped before the model was written", "run the same command again");
  }

  void begin(std::size_t block, const std::string& what) {
    leave_if_stopped();
    progress_.block = std::min(block + 1, progress_.blocks);
    progress_.current = what;
    report_progress();
  }
  void tick() {
    progress_.operations_done = std::min(progress_.operations_done + 1, progress_.operations_total);
    report_progress();
  }
  void report_progress() {
    const auto now = std::chrono::steady_clock::now();
    if (!options_.progress || now - ticked_ < std::chrono::milliseconds(100)) return;
    ticked_ = now;
    progress_.seconds = std::chrono::duration<double>(now - start_).count();
    options_.progress(progress_);
  }

  // Files that the output has of its own; one of the same name beside the model is not carried along.
  static bool is_own_file(const std::string& name) {
    return name == "config.json" || name == "recipe.yaml" || name == "report.json" || name == "report.html" ||
           name == "report.h5" || name == "structure.json" || name.ends_with(".index.json");
  }

  void copy_companions() const {
    for (const std::filesystem::path& source : plan_.checkpoint->companions()) {
      const auto name = companion_name(*plan_.checkpoint, source);
      if (is_own_file(name.string())) continue;
      const auto parent = (directory_.path() / name).parent_path();
      std::error_code failed;
      std::filesystem::create_directories(parent, failed);
      if (failed) throw_io_error("cannot create", parent, failed.value());
      copy_file_atomically(source, directory_.path() / name);
      if (parent != directory_.path()) sync_path(parent);
    }
  }

  void write_small_files(RunReport& report, const SmallerModel& smaller, const OutputLayout& layout,
                         const std::string& structure) {
    const auto& path = directory_.path();
    copy_companions();
    write_file_atomically(path / "config.json", smaller.config);
    if (!layout.index.empty()) {
      const std::string_view extension = plan_.registry->container(plan_.resources.container)->extension();
      write_file_atomically(path / index_file_name(extension), layout.index);
    }
    write_file_atomically(path / "recipe.yaml", plan_.recipe.text);
    write_file_atomically(path / "structure.json", structure);
    if (!plan_.options.report_path.empty()) write_file_atomically(plan_.options.report_path, structure);
    report.machine = describe_machine(plan_.resources.threads);
    report.started = started_;
    report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    report.peak_resident_memory = peak_resident_memory();
    write_report_files(report, path);
  }

  const StructuredPlan& plan_;
  Work& work_;
  const RunOptions& options_;
  const PartialDirectory directory_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point ticked_{};
  const std::string started_ = utc_now();
  std::optional<ActivationBudget> budget_;
  StreamContext context_;
  RunProgress progress_;
};

}  // namespace
}  // namespace structured

RunReport run_structured(const StructuredPlan& plan, const RunOptions& options) {
  if (!plan.problems.empty()) {
    throw Error(ErrorCode::usage, "the plan has problems and cannot run: " + plan.problems.front());
  }
  return structured::StructuredRun(plan, options).execute();
}

}  // namespace quant
