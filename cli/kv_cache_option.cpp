#include "kv_cache_option.h"

#include <fmt/format.h>

#include <charconv>
#include <vector>

#include "quant/error.h"
#include "units.h"

namespace quant::cli {
namespace {

using Scale = KvQuantizer::Scale;

[[noreturn]] void refuse(const std::string& text, const std::string& problem) {
  throw Error(ErrorCode::usage, fmt::format("--kv-cache {}: {}", printable(text), problem),
              "as in --kv-cache int4,group=32,residual=128,keys=channel,values=token; or fp8, or none");
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  while (true) {
    const std::size_t comma = text.find(',', begin);
    parts.push_back(text.substr(begin, comma - begin));
    if (comma == std::string::npos) return parts;
    begin = comma + 1;
  }
}

/// Keys have outlier channels, values do not (KIVI, arXiv 2402.02750). Nothing is left float but keys whose group is
/// not full yet.
KvQuantizer defaults(const std::string& text, const std::string& type) {
  KvQuantizer kv;
  if (type == "fp8") {
    kv.type = NumberType::floating;
    kv.symmetric = true;
    kv.keys = kv.values = Scale::tensor;
    return kv;
  }
  if (type != "int8" && type != "int4" && type != "int3" && type != "int2") {
    refuse(text, fmt::format("'{}' is none of int8, int4, int3, int2, fp8 and none", printable(type)));
  }
  kv.bits = type[3] - '0';
  kv.keys = Scale::channel;
  kv.values = Scale::token;
  kv.group = 32;
  return kv;
}

std::uint64_t number(const std::string& text, const std::string& value) {
  std::uint64_t result = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), result);
  if (error != std::errc{} || end != value.data() + value.size() || result > 1'000'000) {
    refuse(text, fmt::format("'{}' is no number up to a million", printable(value)));
  }
  return result;
}

Scale scale(const std::string& text, const std::string& value) {
  if (value == "channel") return Scale::channel;
  if (value == "token") return Scale::token;
  if (value == "tensor") return Scale::tensor;
  refuse(text, fmt::format("'{}' is none of channel, token and tensor", printable(value)));
}

const char* name_of(Scale kind) {
  return kind == Scale::tensor ? "per tensor" : kind == Scale::token ? "per token" : "per channel";
}

}  // namespace

std::optional<KvQuantizer> parse_kv_cache(const std::string& text) {
  const std::vector<std::string> parts = split(text);
  if (text == "none") return std::nullopt;
  KvQuantizer kv = defaults(text, parts.front());
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const std::size_t equals = parts[i].find('=');
    if (equals == std::string::npos) refuse(text, fmt::format("'{}' is not NAME=VALUE", printable(parts[i])));
    const std::string name = parts[i].substr(0, equals);
    const std::string value = parts[i].substr(equals + 1);
    if (name == "group") {
      kv.group = number(text, value);
    } else if (name == "residual") {
      kv.residual = number(text, value);
    } else if (name == "keys") {
      kv.keys = scale(text, value);
    } else if (name == "values") {
      kv.values = scale(text, value);
    } else {
      refuse(text, fmt::format("'{}' is none of group, residual, keys and values", printable(name)));
    }
  }
  return kv;
}

std::string describe_kv_cache(const KvQuantizer& kv) {
  std::string text = fmt::format("{}{}, keys {}, values {}", kv.type == NumberType::floating ? "fp" : "int", kv.bits,
                                 name_of(kv.keys), name_of(kv.values));
  if (kv.group != 0) text += fmt::format(", groups of {}", kv.group);
  if (kv.residual != 0) text += fmt::format(", newest {} float", kv.residual);
  return text;
}

}  // namespace quant::cli
