#include <algorithm>
#include <set>
#include <system_error>

#include "calibration/statistics_layout.h"
#include "output/files.h"
#include "quant/error.h"
#include "quant/statistics_file.h"
#include "report/hdf5_handle.h"

namespace quant {

namespace {

using calibration::kStatisticsParts;
using calibration::StatisticsPart;
using report::Hdf5Handle;
using report::Hdf5Session;

constexpr std::uint64_t kBlock = 1 << 18;  // values written at once
constexpr hsize_t kChunk = 1 << 16;        // values compressed at once

void check_fits(const InputStatistics& statistics, const std::string& module) {
  const std::uint64_t cols = statistics.cols;
  const auto need = [&](const char* name, const std::vector<float>& values, bool fits) {
    if (values.empty() || fits) return;
    throw Error(ErrorCode::usage, "statistics of '" + module + "': " + name + " has " + std::to_string(values.size()) +
                                      " values, which do not fit " + std::to_string(cols) + " channels");
  };
  if (cols == 0 || cols > calibration::kMostColumns) {
    throw Error(ErrorCode::usage, "statistics of '" + module + "' are of " + std::to_string(cols) + " channels");
  }
  for (const StatisticsPart& part : kStatisticsParts) {
    const std::vector<float>& values = statistics.*part.values;
    const bool any_rows = part.rows == StatisticsPart::Rows::sample;
    const std::uint64_t rows = part.rows == StatisticsPart::Rows::cols ? cols : 1;
    need(part.name, values,
         any_rows ? values.size() % cols == 0 && values.size() / cols <= kSampleRows : values.size() == rows * cols);
  }
  need("gram", statistics.gram, statistics.gram.size() == cols * cols);
}

class Output {
 public:
  Output(const Hdf5Session& session, hid_t group) : session_(session), group_(group) {}

  void whole(const char* name, std::uint64_t value) const {
    const Hdf5Handle space = session_.need(H5Screate(H5S_SCALAR), H5Sclose, action(name));
    put(name, H5T_STD_U64LE, H5T_NATIVE_UINT64, space.get(), &value);
  }

  void text(const char* name, const std::string& value) const {
    const Hdf5Handle type = session_.need(H5Tcopy(H5T_C_S1), H5Tclose, action(name));
    session_.need(H5Tset_size(type.get(), H5T_VARIABLE), action(name));
    session_.need(H5Tset_cset(type.get(), H5T_CSET_UTF8), action(name));
    const Hdf5Handle space = session_.need(H5Screate(H5S_SCALAR), H5Sclose, action(name));
    const char* characters = value.c_str();
    put(name, type.get(), type.get(), space.get(), &characters);
  }

  /// [cols] or [rows, cols].
  void array(const char* name, const std::vector<float>& values, const std::vector<hsize_t>& shape) const {
    const Hdf5Handle dataset = make(name, shape);
    session_.need(H5Dwrite(dataset.get(), H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()),
                  action(name));
  }

  /// The upper triangle of [cols, cols].
  void triangle(const char* name, const std::vector<float>& values, std::uint64_t cols) const {
    const Hdf5Handle dataset = make(name, {cols * (cols + 1) / 2});
    const Hdf5Handle space = session_.need(H5Dget_space(dataset.get()), H5Sclose, action(name));
    std::vector<float> block;
    hsize_t written = 0;
    for (std::uint64_t row = 0; row < cols; ++row) {
      const auto begin = values.begin() + static_cast<std::ptrdiff_t>(row * cols);
      block.insert(block.end(), begin + static_cast<std::ptrdiff_t>(row), begin + static_cast<std::ptrdiff_t>(cols));
      if (block.size() < kBlock && row + 1 < cols) continue;
      const hsize_t count = block.size();
      session_.need(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, &written, nullptr, &count, nullptr), action(name));
      const Hdf5Handle memory = session_.need(H5Screate_simple(1, &count, nullptr), H5Sclose, action(name));
      session_.need(H5Dwrite(dataset.get(), H5T_NATIVE_FLOAT, memory.get(), space.get(), H5P_DEFAULT, block.data()),
                    action(name));
      written += count;
      block.clear();
    }
  }

 private:
  static std::string action(const char* name) { return std::string("write '") + name + "'"; }

  void put(const char* name, hid_t file_type, hid_t memory_type, hid_t space, const void* value) const {
    const Hdf5Handle attribute =
        session_.need(H5Acreate2(group_, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, action(name));
    session_.need(H5Awrite(attribute.get(), memory_type, value), action(name));
  }

  Hdf5Handle make(const char* name, const std::vector<hsize_t>& shape) const {
    const Hdf5Handle creation = session_.need(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, action(name));
    session_.need(H5Pset_obj_track_times(creation.get(), false), action(name));
    // Whole rows, as many as a chunk holds, or a piece of one.
    std::vector<hsize_t> chunk = shape;
    chunk.back() = std::min(chunk.back(), kChunk);
    if (chunk.size() == 2) chunk.front() = std::clamp<hsize_t>(kChunk / chunk.back(), 1, shape.front());
    session_.need(H5Pset_chunk(creation.get(), static_cast<int>(chunk.size()), chunk.data()), action(name));
    session_.need(H5Pset_shuffle(creation.get()), action(name));
    session_.need(H5Pset_deflate(creation.get(), 1), action(name));
    const Hdf5Handle space =
        session_.need(H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr), H5Sclose, action(name));
    return session_.need(
        H5Dcreate2(group_, name, H5T_IEEE_F32LE, space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT), H5Dclose,
        action(name));
  }

  const Hdf5Session& session_;
  hid_t group_;
};

// No time stamps, so that equal statistics are equal bytes.
Hdf5Handle make_group(const Hdf5Session& session, hid_t parent, const std::string& name) {
  const std::string action = "make the group '" + name + "'";
  const Hdf5Handle creation = session.need(H5Pcreate(H5P_GROUP_CREATE), H5Pclose, action);
  session.need(H5Pset_obj_track_times(creation.get(), false), action);
  return session.need(H5Gcreate2(parent, name.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT), H5Gclose, action);
}

}  // namespace

struct StatisticsFileWriter::State {
  std::filesystem::path file;
  std::filesystem::path partial;
  hid_t id = -1;
  bool made = false;  // and not yet renamed
  std::set<std::string> modules;

  ~State() {
    {
      const Hdf5Session session(partial.string(), ErrorCode::io);
      close();
    }
    std::error_code ignored;
    if (made) std::filesystem::remove(partial, ignored);
  }
  // The last close writes what HDF5 still holds, so its failure matters.
  bool close() {
    const hid_t open = std::exchange(id, -1);
    return open < 0 || H5Fclose(open) >= 0;
  }
};

StatisticsFileWriter::StatisticsFileWriter(std::filesystem::path file, const StatisticsOrigin& origin)
    : state_(std::make_unique<State>()) {
  state_->partial = file.string() + ".partial";
  state_->file = std::move(file);
  const Hdf5Session session(state_->partial.string(), ErrorCode::io);
  const Hdf5Handle made = session.need(H5Fcreate(state_->partial.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT),
                                       H5Fclose, "make the file");
  state_->made = true;
  const Output root(session, made.get());
  root.text("kind", "calibration_statistics");
  root.whole("schema_version", kStatisticsSchemaVersion);
  root.text("model", origin.model);
  root.text("data", origin.data);
  root.text("data_hash", origin.data_hash);
  root.text("tool_version", origin.tool_version);
  root.text("model_hash", origin.model_hash);
  make_group(session, made.get(), "inputs");
  H5Iinc_ref(made.get());  // the handle lets go of one reference, this object keeps the other
  state_->id = made.get();
}

StatisticsFileWriter::~StatisticsFileWriter() = default;

void StatisticsFileWriter::write(const std::vector<std::string>& modules, const InputStatistics& statistics) {
  if (modules.empty()) throw Error(ErrorCode::usage, "statistics of no module cannot be stored");
  check_fits(statistics, modules.front());
  for (const std::string& module : modules) {
    if (!state_->modules.insert(module).second) {
      throw Error(ErrorCode::usage, "statistics of '" + module + "' are in " + state_->file.string() + " already");
    }
  }
  const Hdf5Session session(state_->partial.string(), ErrorCode::io);
  const Hdf5Handle inputs =
      session.need(H5Gopen2(state_->id, "inputs", H5P_DEFAULT), H5Gclose, "open the group 'inputs'");
  const std::string name = report::hdf5_link_name(modules.front());
  const Hdf5Handle group = make_group(session, inputs.get(), name);
  const Output output(session, group.get());
  output.whole("tokens", statistics.tokens);
  output.whole("cols", statistics.cols);
  for (const StatisticsPart& part : kStatisticsParts) {
    const std::vector<float>& values = statistics.*part.values;
    if (values.empty()) continue;
    std::vector<hsize_t> shape = {statistics.cols};
    if (part.rows != StatisticsPart::Rows::one) shape.insert(shape.begin(), values.size() / statistics.cols);
    output.array(part.name, values, shape);
  }
  if (!statistics.gram.empty()) output.triangle(calibration::kGramUpper, statistics.gram, statistics.cols);
  for (std::size_t i = 1; i < modules.size(); ++i) {
    session.need(H5Lcreate_hard(inputs.get(), name.c_str(), inputs.get(), report::hdf5_link_name(modules[i]).c_str(),
                                H5P_DEFAULT, H5P_DEFAULT),
                 "link '" + modules[i] + "'");
  }
}

void StatisticsFileWriter::finish() {
  {
    const Hdf5Session session(state_->partial.string(), ErrorCode::io);
    session.need(H5Fflush(state_->id, H5F_SCOPE_LOCAL), "write the file");
    if (!state_->close()) session.fail("write the file");
  }
  sync_path(state_->partial);
  std::error_code error;
  std::filesystem::rename(state_->partial, state_->file, error);
  if (error) throw_io_error("cannot rename to " + state_->file.string(), state_->partial, error.value());
  state_->made = false;
  const std::filesystem::path folder = state_->file.parent_path();
  sync_path(folder.empty() ? "." : folder);
}

void write_statistics(const std::filesystem::path& file, const StatisticsOrigin& origin,
                      const std::map<std::string, InputStatistics>& statistics) {
  StatisticsFileWriter writer(file, origin);
  for (const auto& [module, values] : statistics) writer.write({module}, values);
  writer.finish();
}

}  // namespace quant
