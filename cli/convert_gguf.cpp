// quant convert --to gguf, and to llama.cpp's files of importance.
#include <fmt/format.h>

#include "convert_command.h"
#include "errors.h"
#include "output.h"
#include "progress.h"
#include "quant/gguf.h"
#include "quant/open.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

std::optional<BlockType> block_type_of(const std::string& name) {
  if (name.empty()) return std::nullopt;
  const BlockFormat* format = find_block_format(name);
  if (format != nullptr && can_encode(format->type)) return format->type;
  throw Error(ErrorCode::usage, fmt::format("'{}' is no block type of GGUF that can be made", name),
              "Q4_K and Q8_0 are; docs/gguf.md lists all.");
}

}  // namespace

int convert_into_gguf(const ConvertCommand& options, Session& session) {
  GgufExportOptions request;
  request.output = output_of(options);
  request.type = block_type_of(options.type);
  request.embedding = block_type_of(options.embedding_type);
  request.head = block_type_of(options.head_type);
  request.encoder = options.encoder == "search" ? BlockEncoder::search : BlockEncoder::reference;
  request.requantize = options.requantize;
  request.pre_tokenizer = options.pre_tokenizer;
  const auto importance = options.importance.empty() ? nullptr : open_checkpoint(options.importance);
  request.importance = importance.get();
  const auto checkpoint = open_checkpoint(options.input);
  ProgressLine line("converting", options.quiet);
  request.scan = scan_options(line, options.threads);
  const GgufExportResult result = export_gguf(*checkpoint, session.registry, request);
  line.clear();
  if (session.json) {
    write_stdout(json_text(Json{{"output", request.output.string()},
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
        {{"output", request.output.string()},
         {"tensors", fmt::format("{} ({} with their codes, {} quantized here, {} rounded once more)", result.tensors,
                                 result.moved, result.encoded, result.requantized.size())},
         {"size", fmt::format("{} -> {}", human_bytes(result.bytes_before), human_bytes(result.bytes_after))}}));
    for (const std::string& remark : result.remarks) write_stdout(fmt::format("note: {}\n", remark));
  }
  return kExitOk;
}

int convert_into_imatrix(const ConvertCommand& options, Session& session) {
  const std::string output = output_of(options);
  export_imatrix(options.input, output, options.to == "imatrix" ? ImatrixForm::gguf : ImatrixForm::legacy);
  if (session.json) {
    write_stdout(json_text(Json{{"output", output}, {"container", options.to}}));
  } else if (!options.quiet) {
    write_stdout(field_list({{"output", output}}));
  }
  return kExitOk;
}

}  // namespace quant::cli
