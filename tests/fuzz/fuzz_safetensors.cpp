// The header of a safetensors file, from raw bytes. What is accepted must keep the promises of the reader, and must be
// accepted again after it went through the writer.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "../../formats/containers/safetensors/header.h"
#include "quant/error.h"

namespace {

using quant::safetensors::Header;

void require(bool condition) {
  if (!condition) __builtin_trap();
}

void check_tiling(const Header& header, std::uint64_t file_bytes) {
  std::uint64_t end = header.data_offset;
  for (const quant::TensorInfo& info : header.tensors) {
    require(info.offset == end && info.bytes == quant::byte_count(info.dtype, info.shape));
    end += info.bytes;
  }
  require(end == file_bytes);
}

void check_round_trip(const Header& header, std::uint64_t file_bytes) {
  std::vector<quant::StoredTensor> tensors;
  for (const quant::TensorInfo& info : header.tensors) tensors.push_back({info.name, info.dtype, info.shape});
  const std::string start = quant::safetensors::make_header(tensors, header.metadata);
  const std::uint64_t bytes = start.size() + (file_bytes - header.data_offset);
  const Header again = quant::safetensors::parse_header(std::as_bytes(std::span(start)), bytes, "again");
  require(again.metadata == header.metadata && again.tensors.size() == header.tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const quant::TensorInfo& info = again.tensors[i];
    require(info.offset - again.data_offset == header.tensors[i].offset - header.data_offset);
    require(info.bytes == header.tensors[i].bytes);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const Header header = quant::safetensors::parse_header(std::as_bytes(std::span(data, size)), size, "fuzz");
    check_tiling(header, size);
    check_round_trip(header, size);
  } catch (const quant::Error& error) {
    require(error.code() == quant::ErrorCode::corrupt_file && !error.kind().empty());
  }
  return 0;
}
