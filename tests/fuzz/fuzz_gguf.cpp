// GGUF files and llama.cpp's files of importance. What is accepted can be read: every tensor, every name.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "containers/gguf/header.h"
#include "containers/gguf/imatrix.h"
#include "quant/error.h"
#include "quant/logical_tensors.h"
#include "quant/open.h"
#include "quant/registry.h"
#include "support/temp_dir.h"

namespace {

void require(bool condition) {
  if (!condition) __builtin_trap();
}

const quant::Registry& registry() {
  static const quant::Registry filled = [] {
    quant::Registry made;
    quant::register_builtin_formats(made);
    return made;
  }();
  return filled;
}

// A header that was accepted comes back from the writer.
void check_round_trip(std::span<const std::byte> bytes) {
  using namespace quant::gguf;
  const Header header = parse_header(bytes, bytes.size(), "fuzz");
  Metadata kept;
  for (const auto& [key, value] : header.metadata) {
    if (key != "general.alignment") kept.emplace_back(key, value);
  }
  std::vector<TensorEntry> tensors = header.tensors;
  std::string again = make_header(kept, tensors);
  std::uint64_t end = again.size();
  for (const TensorEntry& tensor : tensors) end = again.size() + padded(tensor.offset + tensor.bytes, kAlignment);
  const Header read = parse_header(std::as_bytes(std::span(again)), end, "again");
  require(read.metadata.size() == kept.size() && read.tensors.size() == tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) require(read.tensors[i].bytes == header.tensors[i].bytes);
}

void read_all(const std::filesystem::path& file) {
  const auto checkpoint = quant::open_checkpoint(file);
  const quant::LogicalTensors tensors(*checkpoint, registry());
  for (const quant::LogicalTensor& tensor : tensors.tensors()) {
    if (!tensor.numeric || tensor.cols > 1U << 20U) continue;
    std::vector<float> row(tensor.cols);
    tensors.read_rows(tensor, tensor.rows - 1, 1, row);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const quant::test::TempDir dir(quant::test::memory_folder());
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    if (quant::gguf::is_gguf(bytes)) {
      check_round_trip(bytes);
      quant::test::write_file(dir / "x.gguf", std::string(reinterpret_cast<const char*>(data), size));
      read_all(dir / "x.gguf");
    } else {
      quant::gguf::read_legacy_importance(bytes, "fuzz");
    }
  } catch (const quant::Error& error) {
    require(error.code() == quant::ErrorCode::corrupt_file || error.code() == quant::ErrorCode::unsupported);
  }
  return 0;
}
