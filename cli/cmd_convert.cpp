// quant convert: copies a checkpoint into another layout of quantized weights, or into another container.
#include <fmt/format.h>

#include <algorithm>

#include "errors.h"
#include "output.h"
#include "progress.h"
#include "quant/algorithm.h"
#include "quant/convert.h"
#include "quant/open.h"
#include "session.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

struct ConvertCommand {
  std::string directory;
  std::string output, output_option;
  std::string to;
  std::string container;
  std::string scheme;
  std::string shard_size = "5G";
  int compression = 4;
  int threads = 0;
  bool requantize = false;
  bool weights_only = false;
  bool overwrite_partial = false;
  bool quiet = false;
};

/// What --to and --container together ask for.
struct Destination {
  std::string layout;  ///< empty: as it is
  std::optional<std::string> format;
  std::string container;
};

Destination destination_of(const ConvertCommand& options, const Session& session) {
  Destination where{options.to, std::nullopt, options.container};
  if (options.to == "hdf5" || options.to == "safetensors") {
    if (!options.container.empty() && options.container != options.to) {
      throw Error(ErrorCode::usage,
                  fmt::format("--to {} and --container {} contradict each other", options.to, options.container));
    }
    where = {"", std::nullopt, options.to};
  } else if (options.to == "gptq_v1" || options.to == "gptq_v2") {
    where.layout = "gptq";
    where.format = options.to == "gptq_v1" ? "gptq" : "gptq_v2";
  }
  if (where.container.empty()) where.container = where.layout.empty() ? "hdf5" : "safetensors";
  if (where.layout.empty() || session.registry.layout(where.layout) != nullptr) return where;
  std::string names = "gptq_v1, gptq_v2, hdf5, safetensors";
  for (const auto& layout : session.registry.layouts()) names += fmt::format(", {}", layout->name());
  throw Error(ErrorCode::usage, fmt::format("--to: there is no format '{}'", options.to),
              fmt::format("choose one of {}", names));
}

std::string output_of(const ConvertCommand& options) {
  const bool both = !options.output.empty() && !options.output_option.empty();
  if (both || (options.output.empty() && options.output_option.empty())) {
    throw Error(ErrorCode::usage, both ? "the output is given twice, as OUT and as --output" : "no output is given",
                "name the directory to make after the checkpoint");
  }
  return options.output.empty() ? options.output_option : options.output;
}

void refuse_layout_options(const ConvertCommand& options) {
  const char* name = options.requantize ? "--requantize" : !options.scheme.empty() ? "--scheme" : "--weights-only";
  if (!options.requantize && options.scheme.empty() && !options.weights_only) return;
  throw Error(ErrorCode::usage, fmt::format("{} needs --to with the name of a layout", name),
              "without it every tensor is copied as it is");
}

int copy_into_container(const ConvertCommand& options, const Destination& where, Session& session) {
  refuse_layout_options(options);
  ConvertOptions request;
  request.output = output_of(options);
  request.compression = options.compression;
  request.overwrite_partial = options.overwrite_partial;
  if (where.container != "hdf5") request.container = session.registry.container(where.container);
  const auto checkpoint = open_checkpoint(options.directory);
  ProgressLine line("copying", options.quiet);
  request.scan = scan_options(line, 0);
  const ConvertResult result = convert_checkpoint(*checkpoint, request);
  line.clear();
  if (session.json) {
    write_stdout(json_text(Json{{"output", request.output.string()},
                                {"container", where.container},
                                {"tensors", result.tensors},
                                {"bytes_before", result.bytes_before},
                                {"bytes_after", result.bytes_after}}));
  } else if (!options.quiet) {
    write_stdout(field_list(
        {{"output", request.output.string()},
         {"tensors", fmt::format("{}", result.tensors)},
         {"size", fmt::format("{} -> {}", human_bytes(result.bytes_before), human_bytes(result.bytes_after))}}));
  }
  return kExitOk;
}

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

int convert_layout_command(const ConvertCommand& options, const Destination& where, Session& session) {
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
  if (!options.scheme.empty() && !options.requantize) {
    throw Error(ErrorCode::usage, "--scheme needs --requantize", "codes that are moved keep their scheme");
  }
  if (!options.scheme.empty()) {
    const auto preset = preset_scheme(options.scheme);
    if (!preset || !preset->weights) throw Error(ErrorCode::usage, "--scheme: there is no preset " + options.scheme);
    request.requantized = preset->weights;
  }
  std::unique_ptr<Algorithm> rtn;
  if (options.requantize) {
    rtn = session.registry.algorithm("rtn")->create({});
    request.requantizer = dynamic_cast<const Quantizer*>(rtn.get());
  }
  const auto checkpoint = open_checkpoint(options.directory);
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

int convert_command(const ConvertCommand& options, Session& session) {
  const Destination where = destination_of(options, session);
  return where.layout.empty() ? copy_into_container(options, where, session)
                              : convert_layout_command(options, where, session);
}

}  // namespace

void add_convert(CLI::App& program, Session& session) {
  const auto options = std::make_shared<ConvertCommand>();
  CLI::App* command =
      add_command(program, session, "convert", "Copy a checkpoint into another layout of its weights, or into HDF5",
                  "quant convert tiny-gptq tiny-awq --to awq\n  quant convert tiny-k3 tiny-k3-h5 --to hdf5", options,
                  convert_command);
  command->add_option("DIR", options->directory, "Checkpoint: directory, .safetensors or .h5 file")->required();
  command->add_option("OUT", options->output, "Directory to make; it must not exist");
  command->add_option("--output", options->output_option, "The same as OUT")->type_name("DIR");
  command
      ->add_option("--to", options->to,
                   "gptq, gptq_v1, gptq_v2, awq, compressed-tensors, libquant or bitsandbytes; or hdf5 or safetensors, "
                   "which keep every tensor as it is")
      ->type_name("FORMAT");
  command
      ->add_option("--container", options->container,
                   "What tensors are written into; safetensors with a layout, else hdf5 if not given")
      ->check(CLI::IsMember({"hdf5", "safetensors"}))
      ->type_name("NAME");
  command->add_flag("--requantize", options->requantize,
                    "Round again what the layout cannot hold exactly, and say what it costs");
  command->add_option("--scheme", options->scheme, "Preset of what is rounded again, as W4A16; default: the nearest")
      ->type_name("NAME");
  command->add_flag("--weights-only", options->weights_only,
                    "Leave out how inputs and caches are quantized where the layout has no place for it");
  command->add_option("--compression", options->compression, "Of HDF5: 0 (none) to 9")
      ->check(CLI::Range(0, 9))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--shard-size", options->shard_size, "Largest size of an output file")
      ->type_name("SIZE")
      ->capture_default_str();
  command->add_flag("--overwrite-partial", options->overwrite_partial, "Discard a DIR.partial that a killed run left");
  command->add_flag("--quiet", options->quiet, "No progress and no summary");
  add_threads_option(*command, options->threads);
}

}  // namespace quant::cli
