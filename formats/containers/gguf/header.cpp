#include "containers/gguf/header.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <set>

#include "containers/io/text.h"
#include "quant/error.h"

namespace quant::gguf {
namespace {

using io::in_quotes;

constexpr std::string_view kMagic = "GGUF";
constexpr std::uint64_t kMaxDimensions = 4;
constexpr std::uint64_t kLongestKey = 65535;

// Takes numbers and texts from the start of the file.
class Cursor {
 public:
  Cursor(std::span<const std::byte> start, std::uint64_t file_bytes, const std::string& file)
      : start_(start), file_bytes_(file_bytes), file_(file) {}

  std::uint64_t at() const { return at_; }

  [[noreturn]] void fail(const std::string& problem, const char* kind = "BadGguf") const {
    throw Error(ErrorCode::corrupt_file, fmt::format("{} is no valid GGUF file: {}.", in_quotes(file_), problem),
                "Fetch the file again.", kind);
  }

  std::string_view bytes(std::uint64_t count, std::string_view what) {
    if (count > file_bytes_ - at_) fail(fmt::format("it ends within {}", what), "FileTruncated");
    if (count > start_.size() - at_) throw Incomplete{};
    const std::string_view part(reinterpret_cast<const char*>(start_.data()) + at_, count);
    at_ += count;
    return part;
  }
  template <class Number>
  Number number(std::string_view what) {
    Number value;
    std::memcpy(&value, bytes(sizeof value, what).data(), sizeof value);
    return value;
  }
  std::string text(std::string_view what) {
    const auto length = number<std::uint64_t>(what);
    return std::string(bytes(length, what));
  }

 private:
  std::span<const std::byte> start_;
  std::uint64_t file_bytes_, at_ = 0;
  const std::string& file_;
};

ValueType value_type(Cursor& cursor, const std::string& key) {
  const auto number = cursor.number<std::uint32_t>("a value's type");
  const auto type = static_cast<ValueType>(number);
  if (value_bytes(type) == 0 && type != ValueType::text && type != ValueType::array) {
    cursor.fail(fmt::format("the value of {} is of type {}, which does not exist", in_quotes(key), number));
  }
  return type;
}

Value read_array(Cursor& cursor, const std::string& key) {
  Value value{ValueType::array, {}, value_type(cursor, key), 0};
  if (value.element == ValueType::array) cursor.fail(fmt::format("{} is an array of arrays", in_quotes(key)));
  value.count = cursor.number<std::uint64_t>("an array's length");
  if (value.element != ValueType::text) {
    const std::uint64_t size = value_bytes(value.element);
    if (value.count > UINT64_MAX / size)
      cursor.fail(fmt::format("{} is an array of impossible length", in_quotes(key)));
    value.bytes = cursor.bytes(value.count * size, in_quotes(key));
    return value;
  }
  for (std::uint64_t i = 0; i < value.count; ++i) {
    const auto length = cursor.number<std::uint64_t>(in_quotes(key));
    value.bytes.append(reinterpret_cast<const char*>(&length), sizeof length);
    value.bytes += cursor.bytes(length, in_quotes(key));
  }
  return value;
}

void read_metadata(Cursor& cursor, std::uint64_t count, Metadata& metadata) {
  std::set<std::string, std::less<>> keys;
  for (std::uint64_t i = 0; i < count; ++i) {
    std::string key = cursor.text("a key");
    if (key.empty() || key.size() > kLongestKey) cursor.fail(fmt::format("a key has {} bytes", key.size()));
    if (!keys.insert(key).second) cursor.fail(fmt::format("the key {} is there twice", in_quotes(key)));
    const ValueType type = value_type(cursor, key);
    Value value{type, {}};
    if (type == ValueType::array) {
      value = read_array(cursor, key);
    } else if (type == ValueType::text) {
      value.bytes = cursor.text(in_quotes(key));
    } else {
      value.bytes = cursor.bytes(value_bytes(type), in_quotes(key));
    }
    metadata.emplace_back(std::move(key), std::move(value));
  }
}

std::uint64_t tensor_bytes(const Cursor& cursor, const TensorEntry& tensor, const std::string& file) {
  std::uint64_t count = 1;
  for (const std::uint64_t size : tensor.sizes) {
    if (size != 0 && count > UINT64_MAX / size) {
      cursor.fail(fmt::format("tensor {} has more than 2^64 elements", in_quotes(tensor.name)));
    }
    count *= size;
  }
  if (const auto plain = plain_dtype(tensor.type)) return checked_mul(count, dtype_bits(*plain) / 8, tensor.name);
  const BlockFormat* format = find_block_format(tensor.type);
  if (format == nullptr) {
    const std::string_view name = undecoded_block_name(tensor.type);
    if (name.empty())
      cursor.fail(fmt::format("tensor {} is of the unknown type {}", in_quotes(tensor.name), tensor.type));
    throw Error(ErrorCode::unsupported,
                fmt::format("Tensor {} of {} is of type {}, which this version does not read.", in_quotes(tensor.name),
                            in_quotes(file), name),
                "Use a file with other block types, Q4_K for example.", "UnsupportedBlockType");
  }
  if (tensor.cols() % format->weights != 0) {
    cursor.fail(fmt::format("the {} columns of tensor {} are no whole blocks of {}", tensor.cols(),
                            in_quotes(tensor.name), format->name));
  }
  return block_bytes(format->type, count);
}

TensorEntry read_tensor(Cursor& cursor, const std::string& file) {
  TensorEntry tensor;
  tensor.name = cursor.text("a tensor's name");
  if (tensor.name.empty() || tensor.name.size() > kLongestTensorName) {
    cursor.fail(fmt::format("a tensor's name has {} bytes", tensor.name.size()));
  }
  if (!io::is_utf8(tensor.name) || io::has_control_character(tensor.name)) {
    cursor.fail(fmt::format("the name of tensor {} is no plain text", in_quotes(tensor.name)));
  }
  const auto dimensions = cursor.number<std::uint32_t>("a tensor's shape");
  if (dimensions == 0 || dimensions > kMaxDimensions) {
    cursor.fail(fmt::format("tensor {} has {} dimensions", in_quotes(tensor.name), dimensions));
  }
  for (std::uint32_t d = 0; d < dimensions; ++d) {
    tensor.sizes.push_back(cursor.number<std::uint64_t>("a tensor's shape"));
    if (tensor.sizes.back() == 0) cursor.fail(fmt::format("tensor {} is empty", in_quotes(tensor.name)));
  }
  tensor.type = cursor.number<std::uint32_t>("a tensor's type");
  tensor.offset = cursor.number<std::uint64_t>("a tensor's place");
  tensor.bytes = tensor_bytes(cursor, tensor, file);
  return tensor;
}

std::uint64_t alignment_of(const Cursor& cursor, const Metadata& metadata) {
  const Value* given = find_value(metadata, "general.alignment");
  if (given == nullptr) return kAlignment;
  const auto alignment = natural_of(given);
  if (!alignment || !std::has_single_bit(*alignment) || *alignment > (1U << 20U)) {
    cursor.fail("general.alignment is no power of two up to 2^20");
  }
  return *alignment;
}

// Every tensor lies within the data, at a multiple of the alignment, and none over another.
void check_places(const Cursor& cursor, const Header& header, std::uint64_t alignment, std::uint64_t file_bytes) {
  const std::uint64_t available = header.data_start > file_bytes ? 0 : file_bytes - header.data_start;
  std::vector<const TensorEntry*> order;
  for (const TensorEntry& tensor : header.tensors) order.push_back(&tensor);
  std::ranges::sort(order, {}, [](const TensorEntry* t) { return t->offset; });
  std::uint64_t end = 0;
  for (const TensorEntry* tensor : order) {
    if (tensor->offset > available || tensor->bytes > available - tensor->offset) {
      cursor.fail(fmt::format("tensor {} with {} bytes at {} lies outside the {} bytes of data",
                              in_quotes(tensor->name), tensor->bytes, tensor->offset, available),
                  "FileTruncated");
    }
    if (tensor->offset % alignment != 0) {
      cursor.fail(
          fmt::format("tensor {} is at {}, no multiple of {}", in_quotes(tensor->name), tensor->offset, alignment));
    }
    if (tensor->offset < end) cursor.fail(fmt::format("tensor {} lies over another one", in_quotes(tensor->name)));
    end = tensor->offset + tensor->bytes;
  }
}

template <class Number>
void append(std::string& out, Number number) {
  out.append(reinterpret_cast<const char*>(&number), sizeof number);
}

void append_text(std::string& out, std::string_view text) {
  append(out, static_cast<std::uint64_t>(text.size()));
  out += text;
}

void append_value(std::string& out, const Value& value) {
  append(out, static_cast<std::uint32_t>(value.type));
  if (value.type == ValueType::array) {
    append(out, static_cast<std::uint32_t>(value.element));
    append(out, value.count);
  }
  if (value.type == ValueType::text) append(out, static_cast<std::uint64_t>(value.bytes.size()));
  out += value.bytes;
}

}  // namespace

std::uint64_t TensorEntry::rows() const {
  return sizes.size() < 2 ? 1 : std::accumulate(sizes.begin() + 1, sizes.end(), std::uint64_t{1}, std::multiplies<>());
}

std::optional<DType> plain_dtype(std::uint32_t type) {
  switch (type) {
    case 0:
      return DType::F32;
    case 1:
      return DType::F16;
    case 24:
      return DType::I8;
    case 25:
      return DType::I16;
    case 26:
      return DType::I32;
    case 27:
      return DType::I64;
    case 28:
      return DType::F64;
    case 30:
      return DType::BF16;
    default:
      return std::nullopt;
  }
}

std::uint64_t padded(std::uint64_t bytes, std::uint64_t alignment) {
  return checked_add(bytes, alignment - 1, "size of the file") / alignment * alignment;
}

bool is_gguf(std::span<const std::byte> start) {
  return start.size() >= kMagic.size() && std::memcmp(start.data(), kMagic.data(), kMagic.size()) == 0;
}

Header parse_header(std::span<const std::byte> start, std::uint64_t file_bytes, const std::string& file) {
  Cursor cursor(start, file_bytes, file);
  if (cursor.bytes(kMagic.size(), "the magic number") != kMagic) cursor.fail("it does not begin with GGUF");
  Header header;
  header.version = cursor.number<std::uint32_t>("the version");
  if (header.version != 2 && header.version != 3) {
    const bool swapped = (header.version & 0xFFFFU) == 0;
    throw Error(ErrorCode::unsupported,
                fmt::format("{} is a GGUF file of version {}{}; this program reads 2 and 3.", in_quotes(file),
                            header.version, swapped ? " (perhaps big-endian)" : ""),
                swapped ? "Fetch the little-endian file." : "Convert the model again.", "UnsupportedVersion");
  }
  const auto tensors = cursor.number<std::uint64_t>("the number of tensors");
  const auto pairs = cursor.number<std::uint64_t>("the number of keys");
  read_metadata(cursor, pairs, header.metadata);
  std::set<std::string, std::less<>> names;
  for (std::uint64_t i = 0; i < tensors; ++i) {
    header.tensors.push_back(read_tensor(cursor, file));
    if (!names.insert(header.tensors.back().name).second) {
      cursor.fail(fmt::format("tensor {} is there twice", in_quotes(header.tensors.back().name)), "DuplicateTensor");
    }
  }
  const std::uint64_t alignment = alignment_of(cursor, header.metadata);
  header.data_start = padded(cursor.at(), alignment);
  check_places(cursor, header, alignment, file_bytes);
  return header;
}

std::string make_header(const Metadata& metadata, std::vector<TensorEntry>& tensors) {
  std::string out(kMagic);
  append(out, std::uint32_t{3});
  append(out, static_cast<std::uint64_t>(tensors.size()));
  append(out, static_cast<std::uint64_t>(metadata.size()));
  for (const auto& [key, value] : metadata) {
    append_text(out, key);
    append_value(out, value);
  }
  std::uint64_t offset = 0;
  std::set<std::string_view> names;
  for (TensorEntry& tensor : tensors) {
    if (tensor.name.size() > kLongestTensorName || !names.insert(tensor.name).second) {
      throw Error(ErrorCode::usage,
                  fmt::format("a GGUF file cannot hold a tensor called {}: its name is {}", in_quotes(tensor.name),
                              tensor.name.size() > kLongestTensorName ? "too long" : "there twice"));
    }
    tensor.offset = offset;
    offset = padded(checked_add(offset, tensor.bytes, "size of the file"), kAlignment);
    append_text(out, tensor.name);
    append(out, static_cast<std::uint32_t>(tensor.sizes.size()));
    for (const std::uint64_t size : tensor.sizes) append(out, size);
    append(out, tensor.type);
    append(out, tensor.offset);
  }
  out.resize(padded(out.size(), kAlignment), '\0');
  return out;
}

}  // namespace quant::gguf
