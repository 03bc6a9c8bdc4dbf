// quant convert --to LAYOUT: quantized weights in another layout.
#include <fmt/format.h>

#include <algorithm>

#include "convert_command.h"
#include "errors.h"
#include "output.h"
#include "progress.h"
#include "quant/algorithm.h"
#include "quant/convert.h"
#include "quant/open.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

Json linear_json(const ConvertedLinear& linear, const std::string& format) {
  Json json = {{"module", linear.module},
               {"from", describe(linear.from)},
               {"to", describe(*linear.to.weights)},
               {"format", format},
               {"exact", linear.exact()}};
  if (!linear.exact()) {
    json["reason"] = linear.reason;
    json["nmse"] = summarize(linear.sums).nmse;
  }
  return json;
}

void print_json(const LayoutConversionOptions& request, const LayoutConversionResult& result) {
  Json linears = Json::array();
  for (const ConvertedLinear& linear : result.linears) {
    linears.push_back(linear_json(linear, request.layout->format_of(linear.to)));
  }
  const auto exact = std::all_of(result.linears.begin(), result.linears.end(), [](const auto& l) { return l.exact(); });
  write_stdout(json_text(Json{{"output", request.output.string()},
                              {"layout", request.layout->name()},
                              {"container", request.container->name()},
                              {"exact", exact},
                              {"nmse", summarize(result.lost).nmse},
                              {"linears", std::move(linears)},
                              {"notes", result.notes},
                              {"tensors", result.tensors},
                              {"files", result.files},
                              {"bytes_before", result.bytes_before},
                              {"bytes_after", result.bytes_after}}));
}

// One line for each pair of schemes, and one for each linear that lost something.
void print_text(const LayoutConversionOptions& request, const LayoutConversionResult& result) {
  std::vector<std::pair<std::string, std::size_t>> moves;
  Table lost({{"linear"}, {"nmse", Table::Align::right}, {"why"}});
  std::size_t rounded = 0;
  for (const ConvertedLinear& linear : result.linears) {
    std::string move = fmt::format("{} -> {} ({})", describe(linear.from), describe(*linear.to.weights),
                                   request.layout->format_of(linear.to));
    const auto known = std::find_if(moves.begin(), moves.end(), [&](const auto& m) { return m.first == move; });
    if (known == moves.end()) {
      moves.emplace_back(std::move(move), 1);
    } else {
      ++known->second;
    }
    if (linear.exact()) continue;
    ++rounded;
    lost.add({linear.module, fmt::format("{:.3e}", summarize(linear.sums).nmse), linear.reason});
  }
  std::vector<std::pair<std::string, std::string>> fields = {{"output", request.output.string()},
                                                             {"layout", std::string(request.layout->name())}};
  for (const auto& [move, count] : moves) fields.emplace_back("linears", fmt::format("{}: {}", count, move));
  fields.emplace_back("codes", rounded == 0 ? "moved, no weight changed"
                                            : fmt::format("{} linears rounded again, which adds an NMSE of {:.3e} to "
                                                          "them",
                                                          rounded, summarize(result.lost).nmse));
  for (const std::string& note : result.notes) fields.emplace_back("note", note);
  fields.emplace_back("tensors", fmt::format("{} in {}", result.tensors, counted(result.files, "file")));
  fields.emplace_back("size",
                      fmt::format("{} -> {}", human_bytes(result.bytes_before), human_bytes(result.bytes_after)));
  write_stdout(field_list(fields));
  if (rounded > 0) write_stdout("\n" + lost.text());
}

}  // namespace

std::optional<QuantArgs> scheme_of(const ConvertCommand& options) {
  if (options.scheme.empty()) return std::nullopt;
  if (!options.requantize) {
    throw Error(ErrorCode::usage, "--scheme needs --requantize", "codes that are moved keep their scheme");
  }
  const auto preset = preset_scheme(options.scheme);
  if (!preset || !preset->weights) throw Error(ErrorCode::usage, "--scheme: there is no preset " + options.scheme);
  return preset->weights;
}

int convert_into_layout(const ConvertCommand& options, const Destination& where, Session& session) {
  LayoutConversionOptions request;
  request.output = output_of(options);
  request.layout = session.registry.layout(where.layout);
  request.format = where.format;
  request.weights_only = options.weights_only;
  request.overwrite_partial = options.overwrite_partial;
  request.shard_bytes = parse_size(options.shard_size, "--shard-size");
  request.container = session.registry.container(where.container);
  if (request.container == nullptr) {
    throw Error(ErrorCode::usage, fmt::format("--to {} writes safetensors, not {}", options.to, where.container),
                "convert its output once more, with --to hdf5");
  }
  request.requantized = scheme_of(options);
  std::unique_ptr<Algorithm> rtn;
  if (options.requantize) {
    rtn = session.registry.algorithm("rtn")->create({});
    request.requantizer = dynamic_cast<const Quantizer*>(rtn.get());
  }
  const auto checkpoint = open_checkpoint(options.input);
  ProgressLine line("converting", options.quiet);
  request.scan = scan_options(line, options.threads);
  const LayoutConversionResult result = convert_layout(*checkpoint, session.registry, request);
  line.clear();
  if (session.json) {
    print_json(request, result);
  } else if (!options.quiet) {
    print_text(request, result);
  }
  return kExitOk;
}

}  // namespace quant::cli
