#include "pipeline/journal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <optional>

#include "hash.h"
#include "quant/error.h"

namespace quant {
namespace {

using nlohmann::json;

constexpr const char* kLinesName = ".quant-journal.jsonl";
constexpr const char* kArraysName = ".quant-journal.f32";

Descriptor open_or_throw(const std::filesystem::path& path, int flags) {
  Descriptor file(::open(path.c_str(), flags | O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (file.get() < 0) throw_io_error("cannot open", path, errno);
  return file;
}

void write_at(int fd, const void* data, std::size_t bytes, std::uint64_t offset, const std::filesystem::path& path) {
  const auto* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::pwrite(fd, at, bytes, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw_io_error("cannot write", path, errno);
    at += written;
    offset += static_cast<std::uint64_t>(written);
    bytes -= static_cast<std::size_t>(written);
  }
}

std::uint64_t file_size(int fd, const std::filesystem::path& path) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) throw_io_error("cannot read", path, errno);
  return static_cast<std::uint64_t>(info.st_size);
}

std::vector<float> read_array(int fd, std::uint64_t offset, std::uint64_t count, const std::filesystem::path& path) {
  const std::uint64_t size = file_size(fd, path);
  if (offset > size || count > (size - offset) / sizeof(float)) {
    throw Error(ErrorCode::corrupt_file, path.string() + " is shorter than the journal says",
                "start over with --overwrite-partial");
  }
  std::vector<float> values(count);
  auto* at = reinterpret_cast<char*>(values.data());
  std::size_t bytes = count * sizeof(float);
  while (bytes > 0) {
    const ssize_t got = ::pread(fd, at, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw_io_error("cannot read", path, got < 0 ? errno : EIO);
    at += got;
    offset += static_cast<std::uint64_t>(got);
    bytes -= static_cast<std::size_t>(got);
  }
  return values;
}

// Rows of a quantized item, 0 for a copied one; nothing for an item that is not in the plan.
std::optional<std::uint64_t> rows_of(const Plan& plan, const ItemKey& key) {
  if (key.first >= plan.shards.size() || key.second >= plan.shards[key.first].items.size()) return std::nullopt;
  const PlannedItem& item = plan.shards[key.first].items[key.second];
  return item.quantized ? plan.linears[item.index].shape.rows : 0;
}

json to_json(const ErrorSums& s) {
  return json::array({s.signal, s.noise, s.dot, s.recon, s.max_abs_error, s.count, s.clipped, s.zeros});
}

ErrorSums sums_from_json(const json& j) {
  ErrorSums s;
  s.signal = j.at(0), s.noise = j.at(1), s.dot = j.at(2), s.recon = j.at(3), s.max_abs_error = j.at(4);
  s.count = j.at(5), s.clipped = j.at(6), s.zeros = j.at(7);
  return s;
}

json to_json(const CalibrationRecord& record) {
  json entry = {{"tokens", record.tokens}, {"damping", record.damping}, {"fallback", record.fallback}};
  if (record.output) {
    const OutputErrors& e = *record.output;
    entry["output"] = json::array({e.signal, e.noise, e.dot, e.recon});
  }
  return entry;
}

CalibrationRecord record_from_json(const json& j) {
  CalibrationRecord record;
  record.tokens = j.at("tokens");
  record.damping = j.at("damping");
  record.fallback = j.at("fallback");
  if (const auto output = j.find("output"); output != j.end()) {
    record.output = OutputErrors{output->at(0), output->at(1), output->at(2), output->at(3)};
  }
  return record;
}

}  // namespace

std::string run_fingerprint(const Plan& plan) {
  json inputs = json::array();
  for (const Checkpoint* checkpoint : {plan.checkpoint, plan.options.sensitivities}) {
    if (checkpoint == nullptr) continue;
    for (const CheckpointFile& file : checkpoint->files()) {
      std::error_code failed;
      const auto time = std::filesystem::last_write_time(file.path, failed).time_since_epoch().count();
      inputs.push_back({file.path.filename().string(), file.bytes, failed ? 0 : time});
    }
  }
  return hash_hex(json{{"journal", 1}, {"plan", plan.identity}, {"inputs", inputs}}.dump());
}

bool Journal::exists(const std::filesystem::path& directory) { return std::filesystem::exists(directory / kLinesName); }

void Journal::remove(const std::filesystem::path& directory) {
  // The lines go first: without them the arrays mean nothing, while lines without arrays would be a damaged journal.
  std::error_code ignored;
  std::filesystem::remove(directory / kLinesName, ignored);
  std::filesystem::remove(directory / kArraysName, ignored);
}

Journal::Journal(const std::filesystem::path& directory, const Plan& plan)
    : lines_path_(directory / kLinesName),
      arrays_path_(directory / kArraysName),
      lines_(open_or_throw(lines_path_, O_APPEND)),
      arrays_(open_or_throw(arrays_path_, 0)) {
  read(plan);
  arrays_size_ = file_size(arrays_.get(), arrays_path_);
}

void Journal::read(const Plan& plan) {
  const std::string fingerprint = run_fingerprint(plan);
  const std::string text = read_text_file(lines_path_);
  std::size_t start = 0;
  for (std::size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', start)) {
    const std::string line = text.substr(start, end - start);
    if (start == 0 && line != fingerprint) {
      throw Error(ErrorCode::io,
                  lines_path_.parent_path().string() +
                      " was made by another recipe, other options, another version, or "
                      "the model's files, or files that the recipe names, have changed since",
                  "start over with --overwrite-partial, or choose another output");
    }
    if (start != 0) parse_line(line, plan);
    start = end + 1;
  }
  // What a kill cut off in the middle of a line would garble the next one.
  if (start != text.size() && ::ftruncate(lines_.get(), static_cast<off_t>(start)) != 0) {
    throw_io_error("cannot write", lines_path_, errno);
  }
  if (start == 0) {
    if (::ftruncate(arrays_.get(), 0) != 0) throw_io_error("cannot write", arrays_path_, errno);
    const std::string header = fingerprint + "\n";
    write_at(lines_.get(), header.data(), header.size(), 0, lines_path_);
    if (::fdatasync(lines_.get()) != 0) throw_io_error("cannot write", lines_path_, errno);
  }
}

void Journal::parse_line(const std::string& line, const Plan& plan) {
  try {
    const json entry = json::parse(line);
    ItemResult result;
    result.sums = sums_from_json(entry.at("sums"));
    result.scale_min = entry.at("scale_min");
    result.scale_max = entry.at("scale_max");
    result.seconds = entry.at("seconds");
    result.violations = entry.at("violations");
    result.notes = entry.at("notes").get<std::vector<std::string>>();
    if (const auto record = entry.find("calibration"); record != entry.end()) {
      result.calibration = record_from_json(*record);
    }
    const std::uint64_t at = entry.at("at");
    const std::uint64_t rows = entry.at("rows");
    const std::uint64_t groups = entry.at("groups");
    result.row_nmse = read_array(arrays_.get(), at, rows, arrays_path_);
    result.group_nmse = read_array(arrays_.get(), at + rows * sizeof(float), groups, arrays_path_);
    const ItemKey key{entry.at("shard"), entry.at("item")};
    if (rows != rows_of(plan, key)) {
      throw Error(ErrorCode::corrupt_file, lines_path_.string() + " names an item that the plan does not have: " + line,
                  "start over with --overwrite-partial");
    }
    finished_[key] = std::move(result);
  } catch (const json::exception& problem) {
    throw Error(ErrorCode::corrupt_file, lines_path_.string() + " cannot be read: " + problem.what(),
                "start over with --overwrite-partial");
  }
}

void Journal::record(const std::vector<std::pair<ItemKey, const ItemResult*>>& items) {
  std::string lines;
  std::vector<float> arrays;
  for (const auto& [key, result] : items) {
    json entry = {{"shard", key.first},
                  {"item", key.second},
                  {"sums", to_json(result->sums)},
                  {"scale_min", result->scale_min},
                  {"scale_max", result->scale_max},
                  {"seconds", result->seconds},
                  {"violations", result->violations},
                  {"at", arrays_size_ + arrays.size() * sizeof(float)},
                  {"rows", result->row_nmse.size()},
                  {"groups", result->group_nmse.size()},
                  {"notes", result->notes}};
    if (result->calibration) entry["calibration"] = to_json(*result->calibration);
    lines += entry.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
    arrays.insert(arrays.end(), result->row_nmse.begin(), result->row_nmse.end());
    arrays.insert(arrays.end(), result->group_nmse.begin(), result->group_nmse.end());
  }
  write_at(arrays_.get(), arrays.data(), arrays.size() * sizeof(float), arrays_size_, arrays_path_);
  arrays_size_ += arrays.size() * sizeof(float);
  if (::fdatasync(arrays_.get()) != 0) throw_io_error("cannot write", arrays_path_, errno);
  write_at(lines_.get(), lines.data(), lines.size(), 0, lines_path_);  // opened for appending: the offset is not used
  if (::fdatasync(lines_.get()) != 0) throw_io_error("cannot write", lines_path_, errno);
}

}  // namespace quant
