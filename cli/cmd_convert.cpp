// quant convert: copies a checkpoint into another container.
#include <fmt/format.h>

#include "errors.h"
#include "output.h"
#include "quant/convert.h"
#include "quant/gguf.h"
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
  std::string to, type, embedding_type, head_type, encoder = "search", importance, pre_tokenizer;
  bool requantize = false;
};

std::optional<BlockType> block_type_of(const std::string& name) {
  if (name.empty()) return std::nullopt;
  const BlockFormat* format = find_block_format(name);
  if (format != nullptr && can_encode(format->type)) return format->type;
  throw Error(ErrorCode::usage, fmt::format("'{}' is no block type of GGUF that can be made", name),
              "Q4_K and Q8_0 are; docs/gguf.md lists all.");
}

int convert_to_gguf(const ConvertCommand& options, Session& session) {
  GgufExportOptions request;
  request.output = options.output;
  request.type = block_type_of(options.type);
  request.embedding = block_type_of(options.embedding_type);
  request.head = block_type_of(options.head_type);
  request.encoder = options.encoder == "search" ? BlockEncoder::search : BlockEncoder::reference;
  request.requantize = options.requantize;
  request.pre_tokenizer = options.pre_tokenizer;
  const auto importance = options.importance.empty() ? nullptr : open_checkpoint(options.importance);
  request.importance = importance.get();
  const auto checkpoint = open_checkpoint(options.directory);
  const GgufExportResult result = export_gguf(*checkpoint, session.registry, request);
  if (session.json) {
    write_stdout(json_text(Json{{"output", options.output},
                                {"container", "gguf"},
                                {"tensors", result.tensors},
                                {"moved", result.moved},
                                {"encoded", result.encoded},
                                {"requantized", result.requantized},
                                {"remarks", result.remarks},
                                {"bytes_before", result.bytes_before},
                                {"bytes_after", result.bytes_after}}));
  } else if (!options.quiet) {
    write_stdout(field_list(
        {{"output", options.output},
         {"tensors", fmt::format("{} ({} with their codes, {} quantized here, {} rounded once more)", result.tensors,
                                 result.moved, result.encoded, result.requantized.size())},
         {"size", fmt::format("{} -> {}", human_bytes(result.bytes_before), human_bytes(result.bytes_after))}}));
    for (const std::string& remark : result.remarks) write_stdout(fmt::format("note: {}\n", remark));
  }
  return kExitOk;
}

int convert_command(const ConvertCommand& options, Session& session) {
  if (options.to == "gguf") return convert_to_gguf(options, session);
  if (options.to == "imatrix" || options.to == "imatrix-legacy") {
    export_imatrix(options.directory, options.output,
                   options.to == "imatrix" ? ImatrixForm::gguf : ImatrixForm::legacy);
    return kExitOk;
  }
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
  command
      ->add_option("--to", options->to,
                   "gguf: a file for llama.cpp; imatrix, imatrix-legacy: calibration statistics (DIR, an .h5 file) "
                   "as its file of importance")
      ->check(CLI::IsMember({"gguf", "imatrix", "imatrix-legacy"}))
      ->type_name("FORMAT");
  command->add_option("--type", options->type, "Of --to gguf: block type of float matrices, such as Q4_K")
      ->type_name("TYPE");
  command->add_option("--embedding-type", options->embedding_type, "The same of the token embedding")
      ->type_name("TYPE");
  command->add_option("--head-type", options->head_type, "The same of the output head")->type_name("TYPE");
  command->add_option("--encoder", options->encoder, "search, or reference-exact: ggml's own bytes")
      ->check(CLI::IsMember({"search", "reference-exact"}))
      ->type_name("NAME")
      ->capture_default_str();
  command->add_option("--importance", options->importance, "Importance of columns: an imatrix file")->type_name("FILE");
  command->add_option("--pre-tokenizer", options->pre_tokenizer, "llama.cpp's name for how text is split")
      ->type_name("NAME");
  command->add_flag("--requantize", options->requantize, "Round quantized matrices once more to --type where needed");
  command->add_flag("--overwrite-partial", options->overwrite_partial, "Discard a DIR.partial that a killed run left");
  command->add_flag("--quiet", options->quiet, "No summary");
}

}  // namespace quant::cli
