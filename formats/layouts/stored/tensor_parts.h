// What layouts share when they write and read the tensors of a linear. Private to the library quant::formats.
#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quant/checkpoint.h"

namespace quant::stored {

/// `values` as F32, F16 or BF16 in the byte order of files.
std::vector<std::byte> float_bytes(DType type, std::span<const float> values);

/// The tensor of that name. Throws Error{corrupt_file} naming file and tensor if it is missing, of none of the types,
/// or of another shape (empty `types` or no `shape`: not checked).
const TensorInfo& need_tensor(const Checkpoint& checkpoint, const std::string& name, std::initializer_list<DType> types,
                              const Shape* shape);
/// Throws Error{corrupt_file} for a tensor of one of the suffixes without the one of suffix `codes` that makes its
/// linear known: it would be copied along in silence.
void reject_orphans(const Checkpoint& checkpoint, std::string_view codes,
                    std::initializer_list<std::string_view> suffixes);
[[noreturn]] void fail(const Checkpoint& checkpoint, const std::string& tensor, const std::string& problem);

/// Elements [first, first + out.size()) as float32; throws Error{corrupt_file} past the end and for values that are not
/// finite.
void read_floats(const Checkpoint& checkpoint, const TensorInfo& info, std::uint64_t first, std::span<float> out);
/// Bytes [offset, offset + size) of a tensor; throws Error{corrupt_file} past the end.
std::span<const std::byte> bytes_of(const Checkpoint& checkpoint, const TensorInfo& info, std::uint64_t offset,
                                    std::uint64_t size);

}  // namespace quant::stored
