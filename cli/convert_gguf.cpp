// quant convert --to gguf, and to llama.cpp's files of importance.
#include <fmt/format.h>

#include <filesystem>

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

// Of the matrices that `counted` picks: how many, and their errors.
template <class Counted>
std::pair<std::size_t, ErrorSums> sums_of(const GgufExportResult& result, const Counted& counted) {
  std::pair<std::size_t, ErrorSums> all;
  for (const GgufMatrix& matrix : result.matrices) {
    if (!counted(matrix)) continue;
    ++all.first;
    all.second += matrix.sums;
  }
  return all;
}

void print_json(const GgufExportOptions& request, const GgufExportResult& result) {
  Json matrices = Json::array();
  for (const GgufMatrix& matrix : result.matrices) {
    matrices.push_back({{"name", matrix.name},
                        {"type", block_format(matrix.type).name},
                        {"moved", matrix.moved},
                        {"rounded_again", matrix.rounded},
                        {"nmse", matrix.moved ? 0.0 : summarize(matrix.sums).nmse}});
  }
  write_stdout(json_text(Json{{"output", request.output.string()},
                              {"container", "gguf"},
                              {"tensors", result.tensors},
                              {"matrices", std::move(matrices)},
                              {"remarks", result.remarks},
                              {"bytes_before", result.bytes_before},
                              {"bytes_after", result.bytes_after}}));
}

// One line for each type, with what its rounding cost.
void print_text(const GgufExportOptions& request, const GgufExportResult& result) {
  std::vector<std::pair<std::string, std::string>> fields = {{"output", request.output.string()},
                                                             {"tensors", fmt::format("{}", result.tensors)}};
  for (const BlockFormat& format : block_formats()) {
    const auto of_type = [&](bool moved, bool rounded) {
      return sums_of(result, [&](const GgufMatrix& m) {
        return m.type == format.type && m.moved == moved && m.rounded == rounded;
      });
    };
    const auto add = [&](const std::pair<std::size_t, ErrorSums>& some, std::string_view how) {
      if (some.first > 0) {
        fields.emplace_back(format.name,
                            fmt::format("{} {}, NMSE {:.3e}", some.first, how, summarize(some.second).nmse));
      }
    };
    if (const auto moved = of_type(true, false); moved.first > 0) {
      fields.emplace_back(format.name, fmt::format("{} with their codes", moved.first));
    }
    add(of_type(false, false), "quantized here");
    add(of_type(false, true), "rounded once more");
  }
  fields.emplace_back("size",
                      fmt::format("{} -> {}", human_bytes(result.bytes_before), human_bytes(result.bytes_after)));
  for (const std::string& remark : result.remarks) fields.emplace_back("note", remark);
  write_stdout(field_list(fields));
}

}  // namespace

void check_gguf_options(const ConvertCommand& options) {
  for (const std::string& type : {options.type, options.embedding_type, options.head_type}) block_type_of(type);
  std::error_code ignored;
  if (options.importance.empty() || std::filesystem::exists(options.importance, ignored)) return;
  throw Error(ErrorCode::io, fmt::format("--importance: {} does not exist", options.importance));
}

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
    print_json(request, result);
  } else if (!options.quiet) {
    print_text(request, result);
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
