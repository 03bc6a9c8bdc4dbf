#include "quant/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <vector>

#include "file_metadata.h"
#include "output/files.h"
#include "output/partial_directory.h"
#include "quant/error.h"
#include "quant/hdf5_tensors.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

void write_container(const fs::path& file, const Checkpoint& checkpoint, const Container& container) {
  std::vector<const TensorInfo*> sources;
  for (const TensorInfo& info : checkpoint.tensors()) sources.push_back(&info);
  const auto stored = [](const TensorInfo* info) { return StoredTensor{info->name, info->dtype, info->shape}; };
  std::sort(sources.begin(), sources.end(),
            [&](const TensorInfo* a, const TensorInfo* b) { return stored_before(stored(a), stored(b)); });
  std::vector<StoredTensor> tensors;
  for (const TensorInfo* info : sources) tensors.push_back(stored(info));
  auto metadata = merged_metadata(checkpoint);
  metadata.try_emplace("format", "pt");  // readers of other projects ask for it
  const auto writer = container.create(file, tensors, {metadata.begin(), metadata.end()}, false);
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const TensorView view = checkpoint.view(*sources[i]);
    if (!view.bytes.empty()) writer->write(i, 0, view.bytes);
    checkpoint.done_reading(view);
  }
  writer->sync();
}

/// The same checkpoint, whose reading stops when the user asks for it and says how far it is: tensors are read one
/// after the other by whatever container writes them.
class WatchedCheckpoint final : public Checkpoint {
 public:
  WatchedCheckpoint(const Checkpoint& source, const ScanOptions& scan) : source_(source), scan_(scan) {
    for (const TensorInfo& info : source.tensors()) total_ += info.bytes;
  }
  const fs::path& location() const override { return source_.location(); }
  const std::vector<CheckpointFile>& files() const override { return source_.files(); }
  const std::vector<TensorInfo>& tensors() const override { return source_.tensors(); }
  const TensorInfo* find(std::string_view name) const override { return source_.find(name); }
  TensorView view(const TensorInfo& info) const override {
    if (scan_.stop != nullptr && *scan_.stop)
      throw Error(ErrorCode::interrupted, "interrupted while tensors were copied");
    if (scan_.progress) scan_.progress(std::min(done_, total_), total_);
    done_ += info.bytes;
    return source_.view(info);
  }
  void will_read(const TensorView& part) const override { source_.will_read(part); }
  void done_reading(const TensorView& part) const override { source_.done_reading(part); }
  const ModelConfig& config() const override { return source_.config(); }
  const std::vector<fs::path>& companions() const override { return source_.companions(); }

 private:
  const Checkpoint& source_;
  const ScanOptions& scan_;
  std::uint64_t total_ = 0;
  mutable std::uint64_t done_ = 0;
};

ConvertResult convert(const Checkpoint& original, const ConvertOptions& options) {
  const WatchedCheckpoint checkpoint(original, options.scan);
  const auto existing =
      options.overwrite_partial ? PartialDirectory::Existing::discard : PartialDirectory::Existing::refuse;
  const PartialDirectory directory(options.output, existing, "remove it, or give --overwrite-partial");
  ConvertResult result;
  try {
    const bool hdf5 = options.container == nullptr;
    const fs::path file = directory.path() / ("model" + std::string(hdf5 ? ".h5" : options.container->extension()));
    if (hdf5) {
      write_hdf5_tensors(file, checkpoint, options.compression);
      sync_path(file);
    } else {
      write_container(file, checkpoint, *options.container);
    }
    if (!checkpoint.config().text.empty()) {
      write_file_atomically(directory.path() / "config.json", checkpoint.config().text);
    }
    for (const fs::path& companion : checkpoint.companions()) {
      const fs::path name = companion_name(checkpoint, companion);
      fs::create_directories((directory.path() / name).parent_path());
      copy_file_atomically(companion, directory.path() / name);
    }
    // A run's report, which is not counted among the small files since other *.h5 files are weights.
    const fs::path report = checkpoint.location() / "report.h5";
    if (fs::is_regular_file(report)) copy_file_atomically(report, directory.path() / "report.h5");
    result.bytes_after = fs::file_size(file);
    directory.commit();
  } catch (...) {
    directory.remove();
    throw;
  }
  result.tensors = checkpoint.tensors().size();
  for (const CheckpointFile& file : checkpoint.files()) result.bytes_before += file.bytes;
  return result;
}

}  // namespace

ConvertResult convert_checkpoint(const Checkpoint& checkpoint, const ConvertOptions& options) {
  try {
    return convert(checkpoint, options);
  } catch (const fs::filesystem_error& error) {
    // What could not be read or written may be a file of the model as well.
    const std::filesystem::path& path = error.path1().empty() ? options.output : error.path1();
    throw Error(ErrorCode::io, fmt::format("cannot convert {} to {}: {}: {}", checkpoint.location().string(),
                                           options.output.string(), path.string(), error.code().message()));
  }
}

}  // namespace quant
