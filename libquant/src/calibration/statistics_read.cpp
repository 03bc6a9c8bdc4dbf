#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>

#include "calibration/hdf5_input.h"
#include "calibration/statistics_layout.h"
#include "quant/error.h"
#include "quant/statistics_file.h"

namespace quant {

namespace {

using calibration::Hdf5Input;
using calibration::kStatisticsParts;
using calibration::StatisticsPart;

constexpr const char* kKind = "InvalidStatistics";
constexpr std::uint64_t kPiece = 1 << 18;  // values of a triangle that are read at once

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Undoes report::hdf5_link_name. What it would not have written stays as it is.
std::string module_of(const std::string& link) {
  if (link == "%") return {};
  std::string module;
  for (std::size_t i = 0; i < link.size(); ++i) {
    const int high = i + 2 < link.size() ? hex_digit(link[i + 1]) : -1;
    const int low = i + 2 < link.size() ? hex_digit(link[i + 2]) : -1;
    if (link[i] == '%' && high >= 0 && low >= 0) {
      module += static_cast<char>(16 * high + low);
      i += 2;
    } else {
      module += link[i];
    }
  }
  return module;
}

/// The statistics of one group.
class GroupReader {
 public:
  GroupReader(const Hdf5Input& input, std::string group) : input_(input), group_(std::move(group)) {
    result_.tokens = input_.whole(group_, "tokens");
    result_.cols = input_.whole(group_, "cols");
    if (result_.cols == 0 || result_.cols > calibration::kMostColumns) {
      input_.wrong(group_, "is of " + std::to_string(result_.cols) + " channels");
    }
  }

  StatisticsSummary describe() const {
    const auto has = [&](const char* name) { return input_.has(group_ + "/" + name); };
    StatisticsSummary summary{result_.tokens, result_.cols, {}};
    summary.parts.absmax = has("absmax") || (has("minimum") && has("maximum"));
    summary.parts.mean_abs = has("mean_abs");
    summary.parts.mean = has("mean");
    summary.parts.square = has("square");
    summary.parts.gram = has(calibration::kGramUpper) || has(calibration::kGramFull);
    summary.parts.cross_gram = has("cross_gram");
    // Other parts of no extent do not fit the channels; as many rows as none are no rows.
    summary.parts.rows = has("rows") && input_.open_array(group_ + "/rows", H5T_FLOAT).values > 0;
    return summary;
  }

  InputStatistics read(const CalibrationNeeds& parts) {
    for (const StatisticsPart& part : kStatisticsParts) {
      const std::string path = group_ + "/" + part.name;
      if (!(parts.*part.need) || !input_.has(path)) continue;
      const Hdf5Input::Array array = input_.open_array(path, H5T_FLOAT);
      if (part.rows == StatisticsPart::Rows::one) {
        need_shape(array, {result_.cols});
      } else {
        const std::uint64_t rows = array.shape.front();
        if (part.rows == StatisticsPart::Rows::sample && rows > kSampleRows) {
          input_.wrong(path,
                       "has " + std::to_string(rows) + " rows; at most " + std::to_string(kSampleRows) + " are used");
        }
        need_shape(array, {part.rows == StatisticsPart::Rows::cols ? result_.cols : rows, result_.cols});
      }
      result_.*part.values = values_of(array);
    }
    complete_ranges();
    if (parts.gram) read_gram();
    return std::move(result_);
  }

 private:
  void need_shape(const Hdf5Input::Array& array, const std::vector<std::uint64_t>& shape) const {
    if (array.shape == shape) return;
    const auto text = [](const std::vector<std::uint64_t>& sizes) {
      std::string list;
      for (const std::uint64_t size : sizes) list += (list.empty() ? "[" : ", ") + std::to_string(size);
      return list + "]";
    };
    input_.wrong(array.path, "has the shape " + text(array.shape) + " where " + text(shape) + " is expected");
  }

  std::vector<float> values_of(const Hdf5Input::Array& array) const {
    std::vector<float> values(array.values);
    input_.read_rows(array, 0, array.shape.front(), H5T_NATIVE_FLOAT, values.data());
    require_finite(array, values, 0);
    return values;
  }

  void require_finite(const Hdf5Input::Array& array, const std::vector<float>& values, std::uint64_t first) const {
    const auto bad = std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
    if (bad == values.end()) return;
    input_.wrong(array.path, "has a value that is not finite, at " +
                                 std::to_string(first + static_cast<std::uint64_t>(bad - values.begin())));
  }

  // Files from elsewhere may have the largest magnitudes alone, or the ranges alone: users of the statistics get both.
  void complete_ranges() {
    std::vector<float>&absmax = result_.absmax, &minimum = result_.minimum, &maximum = result_.maximum;
    for (std::uint64_t c = 0; c < absmax.size(); ++c) {
      if (absmax[c] < 0) input_.wrong(group_, "has a negative absmax, at " + std::to_string(c));
    }
    // One end of a range says nothing without the other.
    if (minimum.empty() || maximum.empty()) minimum.clear(), maximum.clear();
    for (std::uint64_t c = 0; c < minimum.size(); ++c) {
      if (minimum[c] > maximum[c]) input_.wrong(group_, "has a minimum above the maximum, at " + std::to_string(c));
    }
    if (absmax.empty()) {
      for (std::uint64_t c = 0; c < minimum.size(); ++c) {
        absmax.push_back(std::max(std::abs(minimum[c]), std::abs(maximum[c])));
      }
    } else if (minimum.empty()) {
      for (const float value : absmax) minimum.push_back(-value);
      maximum = absmax;
    }
  }

  void read_gram() {
    const std::uint64_t cols = result_.cols;
    const std::string upper = group_ + "/" + calibration::kGramUpper;
    const std::string full = group_ + "/" + calibration::kGramFull;
    if (input_.has(upper)) {
      const Hdf5Input::Array array = input_.open_array(upper, H5T_FLOAT);
      need_shape(array, {cols * (cols + 1) / 2});
      read_triangle(array);
    } else if (input_.has(full)) {
      const Hdf5Input::Array array = input_.open_array(full, H5T_FLOAT);
      need_shape(array, {cols, cols});
      result_.gram = values_of(array);
      check_symmetric(full);
    }
    for (std::uint64_t i = 0; !result_.gram.empty() && i < cols; ++i) {
      if (result_.gram[i * cols + i] < 0) input_.wrong(group_, "has a Gram matrix with a negative diagonal");
    }
  }

  // A piece of whole chunks at a time: beside the whole matrix there is no room for half of it.
  void read_triangle(const Hdf5Input::Array& array) {
    const std::uint64_t cols = result_.cols;
    result_.gram.resize(cols * cols);
    const std::uint64_t most = std::max(kPiece / array.chunk_rows, std::uint64_t{1}) * array.chunk_rows;
    std::vector<float> piece;
    std::uint64_t read = 0;
    std::uint64_t next = 0;
    for (std::uint64_t r = 0; r < cols; ++r) {
      for (std::uint64_t c = r; c < cols; ++c) {
        if (next == piece.size()) {
          piece.resize(std::min(most, array.values - read));
          input_.read_rows(array, read, piece.size(), H5T_NATIVE_FLOAT, piece.data());
          require_finite(array, piece, read);
          read += piece.size();
          next = 0;
        }
        result_.gram[r * cols + c] = result_.gram[c * cols + r] = piece[next++];
      }
    }
  }

  // Rounding may differ between the halves; the upper one counts.
  void check_symmetric(const std::string& path) {
    const std::uint64_t cols = result_.cols;
    std::vector<float>& gram = result_.gram;
    for (std::uint64_t r = 0; r < cols; ++r) {
      for (std::uint64_t c = r + 1; c < cols; ++c) {
        const float scale = std::sqrt(std::abs(gram[r * cols + r])) * std::sqrt(std::abs(gram[c * cols + c]));
        if (std::abs(gram[r * cols + c] - gram[c * cols + r]) > 1e-3F * scale) {
          input_.wrong(path, "is not symmetric at [" + std::to_string(r) + ", " + std::to_string(c) + "]");
        }
        gram[c * cols + r] = gram[r * cols + c];
      }
    }
  }

  const Hdf5Input& input_;
  std::string group_;
  InputStatistics result_;
};

std::string optional_text(const Hdf5Input& input, const char* name) {
  return input.has_attribute("/", name) ? input.text("/", name) : std::string();
}

}  // namespace

StatisticsFileReader::StatisticsFileReader(std::filesystem::path file) : file_(std::move(file)) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(file_, error) || !std::ifstream(file_, std::ios::binary)) {
    throw Error(ErrorCode::io, file_.string() + ": cannot open the statistics (not a readable regular file)",
                "Give a file that was written with calibration statistics.");
  }
  const Hdf5Input input(file_, kKind);
  if (!input.has_attribute("/", "schema_version") || !input.has("inputs")) {
    input.wrong("/", "has no 'schema_version' or no group 'inputs': this is no file of calibration statistics");
  }
  const std::uint64_t version = input.whole("/", "schema_version");
  if (version != kStatisticsSchemaVersion) {
    throw Error(ErrorCode::unsupported,
                file_.string() + ": has version " + std::to_string(version) + " of the schema; this program reads " +
                    std::to_string(kStatisticsSchemaVersion),
                "Use the version of the program that wrote it.", kKind);
  }
  origin_ = {optional_text(input, "model"), optional_text(input, "data"), optional_text(input, "data_hash"),
             optional_text(input, "tool_version"), optional_text(input, "model_hash")};
  for (const std::string& link : input.names("inputs")) modules_.push_back(module_of(link));
  std::sort(modules_.begin(), modules_.end());
}

bool StatisticsFileReader::has(std::string_view module) const {
  return std::binary_search(modules_.begin(), modules_.end(), module);
}

namespace {

std::string group_of(const StatisticsFileReader& reader, const std::filesystem::path& file, const std::string& module) {
  if (reader.has(module)) return "inputs/" + report::hdf5_link_name(module);
  throw Error(ErrorCode::usage, file.string() + ": has no statistics of '" + module + "'",
              "They were collected with another model or another recipe.");
}

}  // namespace

InputStatistics StatisticsFileReader::read(const std::string& module) const {
  return read(
      module,
      {.absmax = true, .mean_abs = true, .gram = true, .cross_gram = true, .rows = true, .mean = true, .square = true});
}

InputStatistics StatisticsFileReader::read(const std::string& module, const CalibrationNeeds& parts) const {
  const std::string group = group_of(*this, file_, module);
  const Hdf5Input input(file_, kKind);
  if (!input.has(group)) input.wrong(group, "is missing");
  return GroupReader(input, group).read(parts);
}

StatisticsSummary StatisticsFileReader::describe(const std::string& module) const {
  const std::string group = group_of(*this, file_, module);
  const Hdf5Input input(file_, kKind);
  if (!input.has(group)) input.wrong(group, "is missing");
  return GroupReader(input, group).describe();
}

std::map<std::string, InputStatistics> read_statistics(const std::filesystem::path& file) {
  const StatisticsFileReader reader(file);
  std::map<std::string, InputStatistics> all;
  for (const std::string& module : reader.modules()) all.emplace(module, reader.read(module));
  return all;
}

}  // namespace quant
