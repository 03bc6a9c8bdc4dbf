// The part of a GGUF file before the data. Source of the format: ggml, docs/gguf.md and src/gguf.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "containers/gguf/metadata.h"
#include "quant/block_format.h"
#include "quant/dtype.h"

namespace quant::gguf {

inline constexpr std::uint64_t kAlignment = 32;        ///< where general.alignment says nothing
inline constexpr std::size_t kLongestTensorName = 63;  ///< ggml's own limit

struct TensorEntry {
  std::string name;
  std::vector<std::uint64_t> sizes;  ///< as in the file: of the fastest dimension first
  std::uint32_t type = 0;            ///< as in the file
  std::uint64_t offset = 0;          ///< from the start of the data
  std::uint64_t bytes = 0;           ///< follows from type and sizes

  std::uint64_t cols() const { return sizes.empty() ? 1 : sizes.front(); }
  std::uint64_t rows() const;  ///< product of the other sizes
};

/// The plain type of numbers that a tensor type stands for (F32, F16, BF16, F64, I8 to I64), if it is one.
std::optional<DType> plain_dtype(std::uint32_t type);

struct Header {
  std::uint32_t version = 3;
  Metadata metadata;
  std::vector<TensorEntry> tensors;
  std::uint64_t data_start = 0;
};

/// True if the file begins with "GGUF".
bool is_gguf(std::span<const std::byte> start);

/// Thrown by parse_header where `start` ends before the header does, and the file is longer.
struct Incomplete {};

/// Reads the header of a file of `file_bytes` bytes from its first ones. Checks everything that it says: types, sizes,
/// unique names, offsets within the file that do not overlap. Throws Error{corrupt_file} naming `file` and the key or
/// tensor; Error{unsupported} for versions other than 2 and 3 and types that this version does not read.
Header parse_header(std::span<const std::byte> start, std::uint64_t file_bytes, const std::string& file);

/// The bytes of a header: metadata as given, tensors in the order of the data; offsets are set here. Throws
/// Error{usage} for names that are too long or twice there.
std::string make_header(const Metadata& metadata, std::vector<TensorEntry>& tensors);
std::uint64_t padded(std::uint64_t bytes, std::uint64_t alignment);

}  // namespace quant::gguf
