#include "structured/output_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "output/model_files.h"
#include "parallel_tasks.h"
#include "quant/error.h"
#include "quant/model.h"

namespace quant::structured {
namespace {

constexpr std::uint64_t kBlockBytes = 4U << 20U;

std::vector<std::pair<std::string, std::string>> metadata_of(const Checkpoint& checkpoint) {
  std::map<std::string, std::string> all;
  for (const CheckpointFile& file : checkpoint.files()) {
    for (const auto& [key, value] : file.metadata) all.emplace(key, value);
  }
  all["format"] = "pt";  // loaders refuse files that do not say so
  return {all.begin(), all.end()};
}

void sort_for_storage(OutputLayout::File& file, const CutList& cuts) {
  const auto stored = [&](std::size_t cut) {
    const TensorCut& tensor = cuts.tensors[cut];
    return StoredTensor{tensor.name, tensor.dtype, tensor.shape};
  };
  std::sort(file.cuts.begin(), file.cuts.end(),
            [&](std::size_t a, std::size_t b) { return stored_before(stored(a), stored(b)); });
  for (const std::size_t cut : file.cuts) file.tensors.push_back(stored(cut));
}

void to_bytes(std::span<const float> values, const TensorCut& cut, std::vector<std::byte>& out) {
  const std::size_t size = dtype_bits(cut.dtype) / 8;
  out.resize(values.size() * size);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float rounded = cut.dtype == DType::F64 ? values[i] : round_to_dtype(cut.dtype, values[i]);
    if (!std::isfinite(rounded)) {
      throw Error(ErrorCode::numerical,
                  fmt::format("'{}' was fitted to a value of {}, which {} cannot hold", cut.name, values[i],
                              dtype_name(cut.dtype)),
                  "raise 'damping', or leave out 'compensate'");
    }
    if (cut.dtype == DType::F32) {
      std::memcpy(out.data() + i * size, &rounded, size);
    } else if (cut.dtype == DType::F64) {
      const double wide = rounded;
      std::memcpy(out.data() + i * size, &wide, size);
    } else {
      const std::uint16_t bits = cut.dtype == DType::F16 ? f32_to_f16(rounded) : f32_to_bf16(rounded);
      std::memcpy(out.data() + i * size, &bits, size);
    }
  }
}

}  // namespace

OutputLayout lay_out(const Checkpoint& checkpoint, const CutList& cuts, const Container& container,
                     std::uint64_t shard_bytes) {
  OutputLayout layout;
  layout.metadata = metadata_of(checkpoint);
  std::vector<std::size_t> order(cuts.tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return natural_less(cuts.tensors[a].name, cuts.tensors[b].name); });
  std::uint64_t bytes = 0;
  for (const std::size_t cut : order) {
    const std::uint64_t more = cuts.tensors[cut].bytes();
    if (layout.files.empty() || (bytes > 0 && bytes + more > std::max<std::uint64_t>(shard_bytes, 1))) {
      layout.files.emplace_back();
      bytes = 0;
    }
    layout.files.back().cuts.push_back(cut);
    bytes += more;
    layout.tensor_bytes += more;
  }
  std::map<std::string, std::string> file_of_tensor;
  for (std::size_t f = 0; f < layout.files.size(); ++f) {
    OutputLayout::File& file = layout.files[f];
    file.name = shard_file_name(f, layout.files.size(), container.extension());
    sort_for_storage(file, cuts);
    layout.file_bytes += container.file_bytes(file.tensors, layout.metadata);
    for (const StoredTensor& tensor : file.tensors) file_of_tensor[tensor.name] = file.name;
  }
  if (layout.files.size() > 1) layout.index = index_text(file_of_tensor, layout.tensor_bytes);
  layout.file_bytes += layout.index.size();
  return layout;
}

OutputModel::OutputModel(const Checkpoint& checkpoint, const CutList& cuts, const OutputLayout& layout,
                         const Container& container, const std::filesystem::path& directory)
    : checkpoint_(checkpoint), cuts_(cuts) {
  for (std::size_t f = 0; f < layout.files.size(); ++f) {
    const OutputLayout::File& file = layout.files[f];
    writers_.push_back(container.create(directory / file.name, file.tensors, layout.metadata, false));
    for (std::size_t t = 0; t < file.tensors.size(); ++t) places_[file.tensors[t].name] = {f, t, file.cuts[t]};
  }
}

const TensorCut& OutputModel::cut(const std::string& name) const { return cuts_.tensors[places_.at(name).cut]; }

void OutputModel::write_values(const std::string& name, std::uint64_t first, std::span<const float> values) {
  const Place& place = places_.at(name);
  const TensorCut& tensor = cuts_.tensors[place.cut];
  std::vector<std::byte> bytes;
  to_bytes(values, tensor, bytes);
  writers_[place.file]->write(place.tensor, first * (dtype_bits(tensor.dtype) / 8), bytes);
  given_.insert(name);
}

void OutputModel::write_rest(int threads, const std::atomic<bool>* stop) {
  // Blocks of rows of one part of a tensor.
  struct Task {
    Place place;
    std::size_t part = 0;
    std::uint64_t first = 0, count = 0, offset = 0;
  };
  std::vector<Task> tasks;
  std::vector<std::uint64_t> costs;
  for (const auto& [name, place] : places_) {
    if (given_.contains(name)) continue;
    const TensorCut& tensor = cuts_.tensors[place.cut];
    const std::uint64_t size = dtype_bits(tensor.dtype) / 8;
    if (tensor.parts.empty()) {
      tasks.push_back({place, 0, 0, 0, 0});
      costs.push_back(tensor.bytes());
    }
    std::uint64_t offset = 0;
    for (std::size_t p = 0; p < tensor.parts.size(); ++p) {
      const CutPart& part = tensor.parts[p];
      const std::uint64_t row = part.cols.size() * size;
      const std::uint64_t step = std::max<std::uint64_t>(1, kBlockBytes / std::max<std::uint64_t>(row, 1));
      for (std::uint64_t r = 0; r < part.rows.size(); r += step) {
        const std::uint64_t count = std::min<std::uint64_t>(step, part.rows.size() - r);
        tasks.push_back({place, p, r, count, offset});
        costs.push_back(count * row);
        offset += count * row;
      }
    }
  }
  ScanOptions scan;
  scan.threads = threads;
  scan.stop = stop;
  run_tasks(costs, scan, [&](std::size_t i) {
    const Task& task = tasks[i];
    const TensorCut& tensor = cuts_.tensors[task.place.cut];
    ContainerWriter& writer = *writers_[task.place.file];
    if (tensor.source == nullptr) {
      writer.write(task.place.tensor, 0, std::vector<std::byte>(tensor.bytes()));
    } else if (tensor.whole()) {
      const TensorView view = checkpoint_.view(*tensor.source);
      writer.write(task.place.tensor, 0, view.bytes);
      checkpoint_.done_reading(view);
    } else {
      writer.write(task.place.tensor, task.offset, cut_bytes(checkpoint_, tensor, task.part, task.first, task.count));
    }
  });
}

void OutputModel::sync() {
  for (const auto& writer : writers_) writer->sync();
}

}  // namespace quant::structured
