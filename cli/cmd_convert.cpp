// quant convert: copies a checkpoint into another layout of quantized weights, another container, or a GGUF file.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "convert_command.h"
#include "errors.h"
#include "output.h"
#include "progress.h"
#include "quant/convert.h"
#include "quant/open.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

// What an option is for; without --to everything is copied.
enum Kind : unsigned { kCopy = 1, kLayout = 2, kGguf = 4, kImatrix = 8 };

struct OptionUse {
  const char* name;
  unsigned kinds;
};

constexpr std::array kUses = {OptionUse{"--container", kCopy | kLayout},
                              OptionUse{"--compression", kCopy},
                              OptionUse{"--shard-size", kLayout},
                              OptionUse{"--threads", kLayout | kGguf},
                              OptionUse{"--requantize", kLayout | kGguf},
                              OptionUse{"--scheme", kLayout},
                              OptionUse{"--weights-only", kLayout},
                              OptionUse{"--overwrite-partial", kCopy | kLayout},
                              OptionUse{"--type", kGguf},
                              OptionUse{"--embedding-type", kGguf},
                              OptionUse{"--head-type", kGguf},
                              OptionUse{"--encoder", kGguf},
                              OptionUse{"--importance", kGguf},
                              OptionUse{"--pre-tokenizer", kGguf}};

std::string kinds_text(unsigned kinds) {
  std::string text;
  for (const auto& [kind, words] :
       {std::pair{kCopy, "copies (--to hdf5 or safetensors, or no --to)"},
        std::pair{kLayout, "--to with the name of a layout"}, std::pair{kGguf, "--to gguf"}}) {
    if ((kinds & kind) != 0) text += fmt::format("{}{}", text.empty() ? "" : " and ", words);
  }
  return text;
}

Kind kind_of(const std::string& to) {
  if (to == "gguf") return kGguf;
  if (to.starts_with("imatrix")) return kImatrix;
  return to.empty() || to == "hdf5" || to == "safetensors" ? kCopy : kLayout;
}

// An option that would be ignored is a mistake.
void check_options(const ConvertCommand& options) {
  const Kind kind = kind_of(options.to);
  for (const OptionUse& use : kUses) {
    if ((use.kinds & kind) != 0 || options.command->get_option(use.name)->count() == 0) continue;
    throw Error(
        ErrorCode::usage,
        fmt::format("{} does nothing {}", use.name, options.to.empty() ? "without --to" : "with --to " + options.to),
        fmt::format("it is for {}", kinds_text(use.kinds)));
  }
}

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
  std::string names = "gguf, gptq_v1, gptq_v2, hdf5, safetensors, imatrix, imatrix-legacy";
  for (const auto& layout : session.registry.layouts()) {
    if (layout->name() != "gguf") names += fmt::format(", {}", layout->name());
  }
  throw Error(ErrorCode::usage, fmt::format("--to: there is no format '{}'", options.to),
              fmt::format("choose one of {}", names));
}

int convert_command(const ConvertCommand& options, Session& session) {
  check_options(options);
  const Kind kind = kind_of(options.to);
  if (kind == kGguf) return convert_into_gguf(options, session);
  if (kind == kImatrix) return convert_into_imatrix(options, session);
  const Destination where = destination_of(options, session);
  return where.layout.empty() ? copy_into_container(options, where, session)
                              : convert_into_layout(options, where, session);
}

void add_gguf_options(CLI::App& command, ConvertCommand& options) {
  const auto add = [&](const char* name, std::string& value, const char* help) {
    return command.add_option(name, value, help)->group("Options of --to gguf");
  };
  add("--type", options.type, "Block type of float matrices, such as Q4_K")->type_name("TYPE");
  add("--embedding-type", options.embedding_type, "The same of the token embedding")->type_name("TYPE");
  add("--head-type", options.head_type, "The same of the output head")->type_name("TYPE");
  add("--encoder", options.encoder, "search, or reference-exact: ggml's own bytes")
      ->check(CLI::IsMember({"search", "reference-exact"}))
      ->type_name("NAME")
      ->capture_default_str();
  add("--importance", options.importance, "Importance of columns: an imatrix file")->type_name("FILE");
  add("--pre-tokenizer", options.pre_tokenizer, "llama.cpp's name for how text is split")->type_name("NAME");
}

void add_layout_options(CLI::App& command, ConvertCommand& options) {
  command.add_flag("--requantize", options.requantize,
                   "Round again what the destination cannot hold exactly, and say what it costs");
  command.add_option("--scheme", options.scheme, "Preset of what is rounded again, as W4A16; default: the nearest")
      ->type_name("NAME");
  command.add_flag("--weights-only", options.weights_only,
                   "Leave out how inputs and caches are quantized where the layout has no place for it");
  command.add_option("--shard-size", options.shard_size, "Largest size of an output file")
      ->type_name("SIZE")
      ->capture_default_str();
}

void add_convert_options(CLI::App& command, ConvertCommand& options) {
  options.command = &command;
  command
      .add_option("DIR", options.input,
                  "Checkpoint: directory, .safetensors, .h5 or .gguf file; statistics (.h5) for imatrix")
      ->required();
  command.add_option("OUT", options.output, "Directory to make, or the .gguf file; it must not exist");
  command.add_option("--output", options.output_option, "The same as OUT")->type_name("PATH");
  command
      .add_option("--to", options.to,
                  "gptq, gptq_v1, gptq_v2, awq, compressed-tensors, libquant or bitsandbytes; gguf: a file for "
                  "llama.cpp; hdf5 or safetensors: every tensor as it is; imatrix or imatrix-legacy: calibration "
                  "statistics as llama.cpp's importance")
      ->type_name("FORMAT");
  command
      .add_option("--container", options.container,
                  "What tensors are written into; safetensors with a layout, else hdf5 if not given")
      ->check(CLI::IsMember({"hdf5", "safetensors"}))
      ->type_name("NAME");
  command.add_option("--compression", options.compression, "Of HDF5: 0 (none) to 9")
      ->check(CLI::Range(0, 9))
      ->type_name("N")
      ->capture_default_str();
  add_layout_options(command, options);
  add_gguf_options(command, options);
  command.add_flag("--overwrite-partial", options.overwrite_partial, "Discard a DIR.partial that a killed run left");
  command.add_flag("--quiet", options.quiet, "No progress and no summary");
  add_threads_option(command, options.threads);
}

}  // namespace

bool convert_uses(std::string_view option, const std::string& to) {
  const auto use = std::find_if(kUses.begin(), kUses.end(), [&](const OptionUse& u) { return option == u.name; });
  return use == kUses.end() || (use->kinds & kind_of(to)) != 0;
}

void check_conversion(const std::vector<std::string>& arguments, Session& session) {
  CLI::App program("quant convert");
  ConvertCommand options;
  add_convert_options(program, options);
  try {
    program.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    throw Error(ErrorCode::usage, error.what());
  }
  check_options(options);
  output_of(options);
  const Kind kind = kind_of(options.to);
  if (kind == kGguf) return check_gguf_options(options);
  if (kind == kImatrix) {
    throw Error(ErrorCode::usage, fmt::format("--to {} is made of calibration statistics, not of a model", options.to));
  }
  destination_of(options, session);
  scheme_of(options);
}

std::string output_of(const ConvertCommand& options) {
  const bool both = !options.output.empty() && !options.output_option.empty();
  if (both || (options.output.empty() && options.output_option.empty())) {
    throw Error(ErrorCode::usage, both ? "the output is given twice, as OUT and as --output" : "no output is given",
                "name what to make after the checkpoint");
  }
  return options.output.empty() ? options.output_option : options.output;
}

int copy_into_container(const ConvertCommand& options, const Destination& where, Session& session) {
  ConvertOptions request;
  request.output = output_of(options);
  request.compression = options.compression;
  request.overwrite_partial = options.overwrite_partial;
  if (where.container != "hdf5") request.container = session.registry.container(where.container);
  const auto checkpoint = open_checkpoint(options.input);
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

void add_convert(CLI::App& program, Session& session) {
  const auto options = std::make_shared<ConvertCommand>();
  CLI::App* added = add_command(
      program, session, "convert", "Copy a checkpoint into another layout of its weights, into HDF5 or into GGUF",
      "quant convert tiny-gptq tiny-awq --to awq\n  quant convert tiny-k3 tiny-k3-h5 --to hdf5\n"
      "  quant convert model model.gguf --to gguf --type Q4_K",
      options, convert_command);
  add_convert_options(*added, *options);
}

}  // namespace quant::cli
