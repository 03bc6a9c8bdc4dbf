// Any bytes as a .npy file of token ids: only quant::Error may come out, and what is read are ids that were in it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "calibration/sources.h"
#include "quant/error.h"
#include "support/temp_dir.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const quant::test::TempDir folder(quant::test::memory_folder());
  quant::test::write_file(folder / "ids.npy", std::string(reinterpret_cast<const char*>(data), size));
  for (const bool pack : {true, false}) {
    quant::CalibrationOptions options;
    options.seq_len = 3;
    options.pack = pack;
    try {
      quant::calibration::Packer packer(options);
      quant::calibration::read_npy(folder / "ids.npy", packer);
      require(packer.tokens() <= size / 2);  // the smallest type has two bytes
      const quant::TokenSequences read = packer.take();
      require(read.tokens() + read.dropped_tokens == packer.tokens());
      for (const auto& sequence : read.sequences) {
        require(!sequence.empty() && sequence.size() <= options.seq_len);
        for (const std::int32_t id : sequence) require(id >= 0);
      }
    } catch (const quant::Error& error) {
      require(error.code() == quant::ErrorCode::corrupt_file || error.code() == quant::ErrorCode::unsupported);
    }
  }
  return 0;
}
