#include <algorithm>

#include "calibration/hdf5_input.h"
#include "calibration/sources.h"

namespace quant::calibration {

void read_hdf5(const std::filesystem::path& file, Packer& packer) {
  const Hdf5Input input(file, "InvalidTokenFile");
  if (!input.has("input_ids")) input.wrong("input_ids", "is missing: the dataset of token ids");
  const Hdf5Input::Array array = input.open_array("input_ids", H5T_INTEGER);
  if (array.values == 0) return;
  const bool lines = array.shape.size() == 2;
  const std::uint64_t cols = lines ? array.shape[1] : array.values;
  constexpr std::uint64_t kBatch = 1 << 20;  // values read at once
  const std::uint64_t batch_rows = lines ? std::max<std::uint64_t>(1, kBatch / cols) : array.values;
  std::vector<std::int64_t> values;
  std::vector<std::int32_t> document(cols);
  for (std::uint64_t first = 0; first < array.shape[0] && !packer.full(); first += batch_rows) {
    const std::uint64_t count = std::min(batch_rows, array.shape[0] - first);
    values.resize(lines ? count * cols : count);
    input.read_rows(array, first, count, H5T_NATIVE_INT64, values.data());
    for (std::size_t begin = 0; begin < values.size(); begin += cols) {
      for (std::uint64_t i = 0; i < cols; ++i) {
        document[i] = checked_id(values[begin + i], file, first * (lines ? cols : 1) + begin + i, cols);
      }
      packer.add(document);
    }
  }
}

}  // namespace quant::calibration
