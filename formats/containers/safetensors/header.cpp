#include "containers/safetensors/header.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "containers/io/text.h"
#include "containers/safetensors/header_json.h"
#include "quant/error.h"

namespace quant::safetensors {
namespace {

using io::in_quotes;
using io::is_utf8;

static_assert(std::endian::native == std::endian::little,
              "tensors are mapped as they are stored, little-endian: this host would read them wrong");

constexpr const char* kIncomplete = "The file may be an incomplete download or copy: fetch it again.";
constexpr const char* kInconsistent =
    "The file is damaged, or was not written by a safetensors writer: fetch or write it again.";

[[noreturn]] void fail(const char* kind, const std::string& message, const std::string& hint) {
  throw Error(ErrorCode::corrupt_file, message, hint, kind);
}

// People hand over other kinds of files; the first bytes tell which.
std::string foreign_file_hint(std::string_view start) {
  using namespace std::string_view_literals;
  if (start.starts_with("version "sv)) return "This may be a Git LFS pointer: fetch the real file with `git lfs pull`.";
  if (start.starts_with("GGUF"sv)) return "This is a GGUF file; a safetensors file is needed.";
  if (start.starts_with("PK\x03\x04"sv))
    return "This is a zip archive, as PyTorch's .bin and .pt files are; save it as safetensors.";
  if (start.starts_with("\x89HDF"sv)) return "This is an HDF5 file; a safetensors file is needed.";
  if (start.starts_with('<')) return "This may be a web page saved in place of the file: fetch it again.";
  return "Is this a safetensors file?";
}

// Step 6: tensors follow each other without hole or overlap.
void check_offsets(const HeaderEntry& entry, std::uint64_t previous_end, std::string_view file) {
  if (entry.begin == previous_end && entry.end >= entry.begin) return;
  const char* problem = entry.end < entry.begin      ? "the end lies before the begin"
                        : entry.begin < previous_end ? "it overlaps the tensor before it"
                                                     : "bytes before it belong to no tensor";
  fail("InvalidOffset",
       fmt::format("Tensor {} of {} has data_offsets [{}, {}] where {} is the end of what comes before: {}.",
                   in_quotes(entry.info.name), in_quotes(file), entry.begin, entry.end, previous_end, problem),
       kInconsistent);
}

// Step 7: bits of the tensor. The product of the sizes other than 0 must fit too: row sizes are computed from it.
std::uint64_t checked_bits(const HeaderEntry& entry, std::string_view file) {
  std::uint64_t product = dtype_bits(entry.info.dtype);
  bool empty = false;
  for (const std::uint64_t size : entry.info.shape) {
    if (size == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(product, size, &product)) {
      fail("ValidationOverflow",
           fmt::format("Tensor {} of {} of type {} and shape {} is larger than 64 bits can count.",
                       in_quotes(entry.info.name), in_quotes(file), dtype_name(entry.info.dtype),
                       to_string(entry.info.shape)),
           kInconsistent);
    }
  }
  return empty ? 0 : product;
}

// Steps 6 to 9 of one tensor.
void check_entry(const HeaderEntry& entry, std::uint64_t previous_end, std::string_view file) {
  check_offsets(entry, previous_end, file);
  const std::uint64_t bits = checked_bits(entry, file);
  if (bits % 8 != 0) {
    fail("MisalignedSlice",
         fmt::format("Tensor {} of {} of type {} and shape {} has {} bits, which are no whole bytes.",
                     in_quotes(entry.info.name), in_quotes(file), dtype_name(entry.info.dtype),
                     to_string(entry.info.shape), bits),
         kInconsistent);
  }
  if (entry.end - entry.begin != bits / 8) {
    fail("TensorInvalidInfo",
         fmt::format("Tensor {} of {} of type {} and shape {} needs {} bytes, but its data_offsets [{}, {}] hold {}.",
                     in_quotes(entry.info.name), in_quotes(file), dtype_name(entry.info.dtype),
                     to_string(entry.info.shape), bits / 8, entry.begin, entry.end, entry.end - entry.begin),
         kInconsistent);
  }
}

// Step 10: the data ends where the file ends.
void check_data_size(std::uint64_t data_end, std::uint64_t data_bytes, std::string_view file) {
  if (data_end < data_bytes) {
    fail("MetadataIncompleteBuffer",
         fmt::format("{} has {} bytes behind its last tensor.", in_quotes(file), data_bytes - data_end),
         "Something was appended to the file, or its header was replaced: fetch it again.");
  }
  if (data_end > data_bytes) {
    fail("MetadataIncompleteBuffer",
         fmt::format("{} ends too early: its tensors need {} bytes, {} are there.", in_quotes(file), data_end,
                     data_bytes),
         kIncomplete);
  }
}

}  // namespace

std::uint64_t header_length(std::span<const std::byte> start, std::uint64_t file_bytes, std::string_view file) {
  if (file_bytes < kLengthBytes) {
    fail("HeaderTooSmall",
         fmt::format("{} has {} bytes; a safetensors file has at least {}.", in_quotes(file), file_bytes, kLengthBytes),
         kIncomplete);
  }
  if (start.size() < kLengthBytes)
    throw Error(ErrorCode::internal, "header_length needs the first 8 bytes of the file");
  std::uint64_t length = 0;
  std::memcpy(&length, start.data(), sizeof length);
  if (length > kMaxHeaderBytes) {
    const std::string_view magic(reinterpret_cast<const char*>(start.data()), kLengthBytes);
    fail("HeaderTooLarge",
         fmt::format("{} announces a header of {} bytes; the limit is {}.", in_quotes(file), length, kMaxHeaderBytes),
         foreign_file_hint(magic));
  }
  if (length > file_bytes - kLengthBytes) {
    fail("InvalidHeaderLength",
         fmt::format("{} announces a header of {} bytes, but has only {} bytes in all.", in_quotes(file), length,
                     file_bytes),
         kIncomplete);
  }
  return length;
}

Header parse_header(std::span<const std::byte> start, std::uint64_t file_bytes, std::string_view file) {
  const std::uint64_t length = header_length(start, file_bytes, file);
  if (start.size() - kLengthBytes < length) throw Error(ErrorCode::internal, "parse_header needs the whole header");
  const std::string_view text(reinterpret_cast<const char*>(start.data()) + kLengthBytes, length);
  if (!is_utf8(text))
    fail("InvalidHeader", fmt::format("The header of {} is not UTF-8.", in_quotes(file)), kInconsistent);

  HeaderJson json = read_header_json(text, file);
  // Stable, so that empty tensors at one place keep the order of the text.
  std::stable_sort(json.entries.begin(), json.entries.end(), [](const HeaderEntry& a, const HeaderEntry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  Header header;
  header.data_offset = kLengthBytes + length;
  header.metadata = std::move(json.metadata);
  header.tensors.reserve(json.entries.size());
  std::uint64_t previous_end = 0;
  for (HeaderEntry& entry : json.entries) {
    check_entry(entry, previous_end, file);
    previous_end = entry.end;
    entry.info.bytes = entry.end - entry.begin;
    entry.info.offset = entry.begin;  // made absolute below, when the end is known to fit
    header.tensors.push_back(std::move(entry.info));
  }
  check_data_size(previous_end, file_bytes - header.data_offset, file);
  for (TensorInfo& info : header.tensors) info.offset += header.data_offset;
  return header;
}

}  // namespace quant::safetensors
