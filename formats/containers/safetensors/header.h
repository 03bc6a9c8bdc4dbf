// The header of a safetensors file: checking it and making it. Pure functions on bytes; nothing here opens a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quant/checkpoint.h"

namespace quant::safetensors {

using Metadata = std::vector<std::pair<std::string, std::string>>;

/// Largest JSON text of a header, padding included; the reference reader has the same limit.
inline constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
/// Largest number of dimensions of a tensor. Our own limit: the format has none.
inline constexpr std::size_t kMaxRank = 64;
/// Bytes of the length field in front of the JSON text.
inline constexpr std::uint64_t kLengthBytes = 8;

/// A header that passed every check.
struct Header {
  std::uint64_t data_offset = 0;    ///< of the first data byte in the file
  Metadata metadata;                ///< sorted by key
  std::vector<TensorInfo> tensors;  ///< by offset; offsets count from the start of the file; `file` is 0
};

/// Bytes of the JSON text, from the first 8 bytes of a file of `file_bytes` bytes (`start` may hold more, and holds
/// less only if the file does). Throws Error{corrupt_file} of kind HeaderTooSmall, HeaderTooLarge or
/// InvalidHeaderLength. `file` is the name that messages use.
std::uint64_t header_length(std::span<const std::byte> start, std::uint64_t file_bytes, std::string_view file);

/// Checks a header in the order of docs/safetensors.md and returns it. `start` holds the file from its first byte, at
/// least up to the end of the header (or the whole file, if that is shorter); data bytes are never looked at.
/// Throws Error{corrupt_file} with the kind of the first failed check. Time is O(n log n) and memory O(n) in the
/// header's length, whatever it says.
Header parse_header(std::span<const std::byte> start, std::uint64_t file_bytes, std::string_view file);

/// The bytes in front of the data, as the reference writer makes them: length, compact JSON with "__metadata__" first
/// (left out if empty), spaces up to a multiple of 8. Tensors keep the order given, metadata is sorted by key.
/// Throws Error{usage} for what the reader would refuse: duplicate, empty or unprintable names, rank above 64, sizes
/// that overflow, part-byte tensors, text that is not UTF-8; and Error{unsupported, HeaderTooLarge}.
std::string make_header(const std::vector<StoredTensor>& tensors, const Metadata& metadata);

}  // namespace quant::safetensors
