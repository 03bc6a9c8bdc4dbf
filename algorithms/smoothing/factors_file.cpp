#include "smoothing/factors_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "quant/error.h"

namespace quant {
namespace {

constexpr std::uintmax_t kLargestFile = std::uintmax_t{1} << 28;
constexpr const char* kFormat = "quant-smoothing-factors";

[[noreturn]] void fail_io(const std::filesystem::path& path, std::string_view doing, const std::string& why) {
  throw Error(ErrorCode::io, fmt::format("cannot {} the smoothing factors {}: {}", doing, path.string(), why));
}

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& what) {
  throw Error(ErrorCode::corrupt_file, fmt::format("{}: {}", path.string(), what),
              "such files are written by a modifier's export_factors");
}

std::string json_text(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string text_of(const SmoothingFactors& factors) {
  std::string text = fmt::format("{{\"format\": \"{}\", \"version\": 1,\n \"method\": {},\n \"smooth_layer\": {},\n",
                                 kFormat, json_text(factors.method), json_text(factors.smooth_layer));
  text += fmt::format(" \"values\": {},\n \"factors\": [", nlohmann::json(factors.values).dump());
  for (std::size_t i = 0; i < factors.factors.size(); ++i) {
    text += fmt::format("{}{:.9g}", i == 0 ? "" : ", ", factors.factors[i]);
  }
  return text + "]}\n";
}

nlohmann::json read_json(const std::filesystem::path& path) {
  std::error_code failed;
  const std::uintmax_t bytes = std::filesystem::file_size(path, failed);
  if (failed) fail_io(path, "read", failed.message());
  if (bytes > kLargestFile) fail(path, fmt::format("{} bytes are too many for a file of smoothing factors", bytes));
  std::ifstream stream(path, std::ios::binary);
  std::string text(bytes, '\0');
  if (!stream.read(text.data(), static_cast<std::streamsize>(bytes))) fail_io(path, "read", "reading failed");
  constexpr int kDeepest = 4;
  const auto shallow = [](int depth, nlohmann::json::parse_event_t, nlohmann::json&) { return depth <= kDeepest; };
  nlohmann::json json = nlohmann::json::parse(text, shallow, false);
  if (json.is_discarded() || !json.is_object()) fail(path, "this is no JSON object");
  return json;
}

std::string text_member(const std::filesystem::path& path, const nlohmann::json& json, const char* name) {
  const auto found = json.find(name);
  if (found == json.end() || !found->is_string()) fail(path, fmt::format("'{}' is missing or no text", name));
  return found->get<std::string>();
}

}  // namespace

void write_smoothing_factors(const std::filesystem::path& path, const SmoothingFactors& factors) {
  std::filesystem::path partial = path;
  partial += ".part";
  errno = 0;
  {
    std::ofstream stream(partial, std::ios::binary | std::ios::trunc);
    stream << text_of(factors) << std::flush;
    if (!stream) fail_io(path, "write", errno != 0 ? std::strerror(errno) : "writing failed");
  }
  std::error_code failed;
  std::filesystem::rename(partial, path, failed);
  if (failed) fail_io(path, "write", failed.message());
}

SmoothingFactors read_smoothing_factors(const std::filesystem::path& path) {
  const nlohmann::json json = read_json(path);
  if (text_member(path, json, "format") != kFormat) fail(path, fmt::format("'format' is not {}", kFormat));
  if (json.value("version", nlohmann::json()) != 1) fail(path, "'version' is not 1, the only one this program reads");
  SmoothingFactors result;
  result.method = text_member(path, json, "method");
  result.smooth_layer = text_member(path, json, "smooth_layer");
  const auto list = json.find("factors");
  if (list == json.end() || !list->is_array()) fail(path, "'factors' is missing or no list");
  for (const auto& item : *list) {
    const float value = item.is_number() ? item.get<float>() : std::nanf("");
    if (!std::isfinite(value) || value <= 0) {
      fail(path, fmt::format("factors[{}] is {}, not a positive number", result.factors.size(), item.dump()));
    }
    result.factors.push_back(value);
  }
  const auto values = json.find("values");
  if (values == json.end() || !values->is_object()) return result;
  for (const auto& [name, value] : values->items()) {
    if (value.is_number()) result.values[name] = value.get<double>();
  }
  return result;
}

namespace smoothing {

std::filesystem::path factors_path(const std::filesystem::path& directory, const std::string& smooth_layer) {
  std::string name;
  for (const char c : smooth_layer) {
    const bool plain =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    name += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return directory / (name + ".json");
}

std::optional<SmoothingFactors> import_factors(const std::filesystem::path& directory, const std::string& smooth_layer,
                                               std::uint64_t cols) {
  std::error_code failed;
  if (!std::filesystem::is_directory(directory, failed)) fail_io(directory, "read", "there is no such directory");
  const auto path = factors_path(directory, smooth_layer);
  if (!std::filesystem::exists(path, failed)) return std::nullopt;
  SmoothingFactors factors = read_smoothing_factors(path);
  if (factors.smooth_layer != smooth_layer) {
    fail(path, fmt::format("these are factors of '{}', not of '{}'", factors.smooth_layer, smooth_layer));
  }
  if (!factors.factors.empty() && factors.factors.size() != cols) {
    fail(path, fmt::format("{} factors for the {} columns that {} has", factors.factors.size(), cols, smooth_layer));
  }
  return factors;
}

std::vector<std::filesystem::path> factor_files(const std::filesystem::path& directory) {
  std::error_code failed;
  std::vector<std::filesystem::path> files;
  for (auto entry = std::filesystem::directory_iterator(directory, failed);
       !failed && entry != std::filesystem::directory_iterator(); entry.increment(failed)) {
    if (entry->path().extension() == ".json" && entry->is_regular_file(failed)) files.push_back(entry->path());
  }
  if (failed) fail_io(directory, "read", failed.message());
  std::sort(files.begin(), files.end());
  return files;
}

void export_factors(const std::filesystem::path& directory, const SmoothingFactors& factors) {
  std::error_code failed;
  std::filesystem::create_directories(directory, failed);
  if (failed) fail_io(directory, "write", failed.message());
  write_smoothing_factors(factors_path(directory, factors.smooth_layer), factors);
}

}  // namespace smoothing
}  // namespace quant
