// quant convert: copies a checkpoint into another container.
#include <fmt/format.h>

#include "errors.h"
#include "output.h"
#include "quant/convert.h"
#include "quant/open.h"
#include "session.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

struct ConvertCommand {
  std::string directory;
  std::string output;
  std::string container = "hdf5";
  int compression = 4;
  bool overwrite_partial = false;
  bool quiet = false;
};

int convert_command(const ConvertCommand& options, Session& session) {
  ConvertOptions request;
  request.output = options.output;
  request.compression = options.compression;
  request.overwrite_partial = options.overwrite_partial;
  if (options.container != "hdf5") request.container = session.registry.container(options.container);
  const auto checkpoint = open_checkpoint(options.directory);
  const ConvertResult result = convert_checkpoint(*checkpoint, request);
  if (session.json) {
    write_stdout(json_text(Json{{"output", options.output},
                                {"container", options.container},
                                {"tensors", result.tensors},
                                {"bytes_before", result.bytes_before},
                                {"bytes_after", result.bytes_after}}));
  } else if (!options.quiet) {
    write_stdout(field_list(
        {{"output", options.output},
         {"tensors", fmt::format("{}", result.tensors)},
         {"size", fmt::format("{} -> {}", human_bytes(result.bytes_before), human_bytes(result.bytes_after))}}));
  }
  return kExitOk;
}

}  // namespace

void add_convert(CLI::App& program, Session& session) {
  const auto options = std::make_shared<ConvertCommand>();
  CLI::App* command = add_command(program, session, "convert", "Copy a checkpoint into HDF5, or back into safetensors",
                                  "quant convert tiny-k3 --output tiny-k3-h5", options, convert_command);
  command->add_option("DIR", options->directory, "Checkpoint: directory, .safetensors or .h5 file")->required();
  command->add_option("--output", options->output, "Directory to make; it must not exist")
      ->type_name("DIR")
      ->required();
  command->add_option("--container", options->container, "What tensors are written into")
      ->check(CLI::IsMember({"hdf5", "safetensors"}))
      ->type_name("NAME")
      ->capture_default_str();
  command->add_option("--compression", options->compression, "Of HDF5: 0 (none) to 9")
      ->check(CLI::Range(0, 9))
      ->type_name("N")
      ->capture_default_str();
  command->add_flag("--overwrite-partial", options->overwrite_partial, "Discard a DIR.partial that a killed run left");
  command->add_flag("--quiet", options->quiet, "No summary");
}

}  // namespace quant::cli
