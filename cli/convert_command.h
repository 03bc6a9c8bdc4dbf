// What `quant convert` was told, and what it does for each kind of destination.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quant/scheme.h"
#include "session.h"

namespace quant::cli {

struct ConvertCommand {
  std::string input;
  std::string output, output_option;
  std::string to;
  std::string container;
  std::string scheme;
  std::string shard_size = "5G";
  std::string type, embedding_type, head_type, encoder = "search", importance, pre_tokenizer;
  int compression = 4;
  int threads = 0;
  bool requantize = false;
  bool weights_only = false;
  bool overwrite_partial = false;
  bool quiet = false;
  const CLI::App* command = nullptr;  ///< tells which options were given
};

/// Whether an option ("--threads") does anything for that destination.
bool convert_uses(std::string_view option, const std::string& to);

/// What follows "quant convert" on a command line, checked as far as that goes without opening the checkpoint. Throws
/// Error{usage, io}.
void check_conversion(const std::vector<std::string>& arguments, Session& session);

/// The block types that --type, --embedding-type and --head-type name, the importance file, and --encoder. Throws
/// Error{usage, io}.
void check_gguf_options(const ConvertCommand& options);

/// The preset that --scheme names, where --requantize allows one. Throws Error{usage}.
std::optional<QuantArgs> scheme_of(const ConvertCommand& options);

/// What --to and --container together ask for.
struct Destination {
  std::string layout;  ///< empty: as it is
  std::optional<std::string> format;
  std::string container;
};

/// OUT or --output. Throws Error{usage} if there is none or both.
std::string output_of(const ConvertCommand& options);

/// Copies every tensor as it is.
int copy_into_container(const ConvertCommand& options, const Destination& where, Session& session);
int convert_into_layout(const ConvertCommand& options, const Destination& where, Session& session);
int convert_into_gguf(const ConvertCommand& options, Session& session);
/// `options.to`: imatrix or imatrix-legacy.
int convert_into_imatrix(const ConvertCommand& options, Session& session);

}  // namespace quant::cli
