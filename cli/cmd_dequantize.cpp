// quant dequantize: writes a checkpoint as plain floating-point weights.
#include <fmt/format.h>

#include "errors.h"
#include "output.h"
#include "progress.h"
#include "quant/dequantize.h"
#include "quant/open.h"
#include "session.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

struct DequantizeCommand {
  std::string directory;
  std::string output;
  std::string dtype = "source";
  std::string shard_size = "5G";
  bool overwrite_partial = false;
  bool quiet = false;
  int threads = 0;
};

const Container& output_container(const Session& session) {
  const Container* container = session.registry.container("safetensors");
  if (container == nullptr) throw Error(ErrorCode::internal, "this build has no container 'safetensors'");
  return *container;
}

void print_result(const DequantizeCommand& options, const DequantizeResult& result, const Session& session) {
  if (session.json) {
    write_stdout(json_text(Json{{"output", options.output},
                                {"dtype", options.dtype},
                                {"linears", result.linears},
                                {"tensors", result.tensors},
                                {"files", result.files},
                                {"bytes_before", result.bytes_before},
                                {"bytes_after", result.bytes_after}}));
  } else if (!options.quiet) {
    write_stdout(field_list(
        {{"output", options.output},
         {"tensors", fmt::format("{} in {}, {} of them were quantized", result.tensors, counted(result.files, "file"),
                                 result.linears)},
         {"size", fmt::format("{} -> {}", human_bytes(result.bytes_before), human_bytes(result.bytes_after))}}));
  }
}

int dequantize_command(const DequantizeCommand& options, Session& session) {
  DequantizeOptions request;
  request.output = options.output;
  request.shard_bytes = parse_size(options.shard_size, "--shard-size");
  request.overwrite_partial = options.overwrite_partial;
  if (options.dtype != "source") request.dtype = parse_dtype(options.dtype);
  const auto checkpoint = open_checkpoint(options.directory);
  ProgressLine line("dequantizing", options.quiet);
  request.scan = scan_options(line, options.threads);
  const DequantizeResult result =
      dequantize_checkpoint(*checkpoint, session.registry, output_container(session), request);
  line.clear();
  print_result(options, result, session);
  return kExitOk;
}

}  // namespace

void add_dequantize(CLI::App& program, Session& session) {
  const auto options = std::make_shared<DequantizeCommand>();
  CLI::App* command =
      add_command(program, session, "dequantize", "Write a compressed checkpoint as plain weights",
                  "quant dequantize tiny-w4a16 --output tiny-plain --dtype F16", options, dequantize_command);
  command->add_option("DIR", options->directory, "Checkpoint: directory, .safetensors or .h5 file")->required();
  command->add_option("--output", options->output, "Directory to make; it must not exist")
      ->type_name("DIR")
      ->required();
  command->add_option("--dtype", options->dtype, "F16, BF16, F32, or source: the type each tensor had")
      ->check(CLI::IsMember({"F16", "BF16", "F32", "source"}))
      ->type_name("TYPE")
      ->capture_default_str();
  command->add_option("--shard-size", options->shard_size, "Largest size of an output file")
      ->type_name("SIZE")
      ->capture_default_str();
  command->add_flag("--overwrite-partial", options->overwrite_partial, "Discard a DIR.partial that a killed run left");
  command->add_flag("--quiet", options->quiet, "No progress and no summary");
  add_threads_option(*command, options->threads);
}

}  // namespace quant::cli
