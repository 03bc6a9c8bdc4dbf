// NumPy's .npy format, versions 1 to 3. Source: numpy/lib/format.py. The file is not trusted.
#include <array>
#include <bit>
#include <cstring>
#include <fstream>
#include <optional>
#include <string_view>

#include "calibration/sources.h"
#include "quant/error.h"

namespace quant::calibration {

namespace {

struct Header {
  char kind = 0;  // i: signed, u: unsigned
  std::uint64_t item_bytes = 0;
  bool columns_first = false;
  std::vector<std::uint64_t> shape;
};

/// Reads the header, which is a Python dictionary: {'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }
class HeaderReader {
 public:
  HeaderReader(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  Header read() {
    need('{');
    while (!take('}')) {
      read_member();
      if (!take(',')) {
        need('}');
        break;
      }
    }
    skip_spaces();
    if (at_ != text_.size()) wrong("has something behind its header");
    if (!has_type_ || !has_order_ || !has_shape_) wrong("has a header without 'descr', 'fortran_order' or 'shape'");
    return header_;
  }

  [[noreturn]] void wrong(const std::string& what) const {
    throw Error(ErrorCode::corrupt_file, file_ + ": " + what, "Write the ids with numpy.save.", "InvalidNpy");
  }

 private:
  void skip_spaces() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool take(char c) {
    skip_spaces();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void need(char c) {
    if (!take(c)) wrong(std::string("has a damaged header: no '") + c + "' at byte " + std::to_string(at_));
  }
  bool take_word(std::string_view word) {
    skip_spaces();
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }

  std::string quoted() {
    skip_spaces();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') wrong("has a damaged header: no text at byte " + std::to_string(at_));
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) wrong("has a damaged header: a text without an end");
    std::string value(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return value;
  }

  std::uint64_t number() {
    skip_spaces();
    std::uint64_t value = 0;
    const std::size_t begin = at_;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      value = checked_add(checked_mul(value, 10, file_), static_cast<std::uint64_t>(text_[at_] - '0'), file_);
    }
    if (at_ == begin) wrong("has a shape that is no tuple of numbers");
    return value;
  }

  void read_member() {
    const std::string key = quoted();
    need(':');
    bool* seen = key == "descr"           ? &has_type_
                 : key == "fortran_order" ? &has_order_
                 : key == "shape"         ? &has_shape_
                                          : nullptr;
    if (seen == nullptr || *seen) wrong("has '" + key.substr(0, 40) + "' in its header, which does not belong there");
    *seen = true;
    if (seen == &has_type_) return read_type();
    if (seen == &has_shape_) return read_shape();
    header_.columns_first = take_word("True");
    if (!header_.columns_first && !take_word("False")) wrong("has a 'fortran_order' that is neither True nor False");
  }

  void read_type() {
    const std::string type = quoted();
    for (const std::string_view known : {"<i4", "<i8", "<u2", "<u4", "<u8"}) {
      if (type != known) continue;
      header_.kind = known[1];
      header_.item_bytes = static_cast<std::uint64_t>(known[2] - '0');
      return;
    }
    throw Error(ErrorCode::unsupported,
                file_ + ": has elements of type '" + type.substr(0, 40) + "'; token ids are <i4, <i8, <u2, <u4 or <u8",
                "Convert them: numpy.save(file, ids.astype('<i4')).", "InvalidNpy");
  }

  void read_shape() {
    need('(');
    while (!take(')')) {
      header_.shape.push_back(number());
      if (header_.shape.size() > 32) wrong("has a shape of more than 32 dimensions");
      if (!take(',')) {
        need(')');
        break;
      }
    }
  }

  std::string_view text_;
  const std::string& file_;
  std::size_t at_ = 0;
  Header header_;
  bool has_type_ = false;
  bool has_order_ = false;
  bool has_shape_ = false;
};

std::string read_bytes(std::ifstream& in, std::uint64_t count, const std::string& file) {
  std::string bytes(count, '\0');
  in.read(bytes.data(), static_cast<std::streamsize>(count));
  if (static_cast<std::uint64_t>(in.gcount()) == count) return bytes;
  throw Error(ErrorCode::corrupt_file, file + ": ends before its " + std::to_string(count) + " bytes of header or data",
              "Copy the file again.", "InvalidNpy");
}

Header read_header(std::ifstream& in, std::uint64_t file_bytes, const std::string& file) {
  const std::string magic = read_bytes(in, 8, file);
  const HeaderReader errors({}, file);
  if (!magic.starts_with("\x93NUMPY")) errors.wrong("is not a .npy file");
  const int version = static_cast<unsigned char>(magic[6]);
  if (version < 1 || version > 3) errors.wrong("has version " + std::to_string(version) + " of the format, not 1 to 3");
  const std::string length = read_bytes(in, version == 1 ? 2 : 4, file);
  std::uint64_t size = 0;
  for (std::size_t i = 0; i < length.size(); ++i)
    size |= std::uint64_t{static_cast<unsigned char>(length[i])} << (8 * i);
  constexpr std::uint64_t kLongestHeader = 10'000;  // as in NumPy
  if (size > kLongestHeader || size > file_bytes) errors.wrong("has a header of " + std::to_string(size) + " bytes");
  const std::string text = read_bytes(in, size, file);
  return HeaderReader(text, file).read();
}

std::int64_t element(const char* at, const Header& header) {
  static_assert(std::endian::native == std::endian::little);
  std::uint64_t bits = 0;
  std::memcpy(&bits, at, header.item_bytes);
  if (header.kind == 'u') return bits > INT64_MAX ? INT64_MAX : static_cast<std::int64_t>(bits);
  return header.item_bytes == 4 ? std::int64_t{static_cast<std::int32_t>(static_cast<std::uint32_t>(bits))}
                                : static_cast<std::int64_t>(bits);
}

}  // namespace

void read_npy(const std::filesystem::path& file, Packer& packer) {
  const std::string name = file.string();
  std::ifstream in(file, std::ios::binary);
  if (!in) throw Error(ErrorCode::io, name + ": cannot be read", "Check its permissions.");
  std::error_code error;
  const std::uint64_t file_bytes = std::filesystem::file_size(file, error);
  if (error) throw Error(ErrorCode::io, name + ": cannot be read (" + error.message() + ")");
  const Header header = read_header(in, file_bytes, name);
  const HeaderReader errors({}, name);
  if (header.shape.empty() || header.shape.size() > 2) {
    errors.wrong("has " + std::to_string(header.shape.size()) + " dimensions; token ids have one or two");
  }
  if (header.columns_first && header.shape.size() == 2)
    errors.wrong("is stored by columns; use numpy.ascontiguousarray");
  const std::uint64_t cols = header.shape.back();
  const std::uint64_t rows = header.shape.size() == 2 ? header.shape.front() : 1;
  const std::uint64_t bytes = checked_mul(checked_mul(rows, cols, name), header.item_bytes, name);
  const auto begin = static_cast<std::uint64_t>(in.tellg());
  if (bytes != file_bytes - begin) {
    errors.wrong("has " + std::to_string(file_bytes - begin) + " bytes of data, but its shape needs " +
                 std::to_string(bytes));
  }
  std::vector<std::int32_t> document(bytes == 0 ? 0 : cols);
  for (std::uint64_t row = 0; bytes > 0 && row < rows && !packer.full(); ++row) {
    const std::string data = read_bytes(in, cols * header.item_bytes, name);
    for (std::uint64_t i = 0; i < cols; ++i) {
      document[i] = checked_id(element(data.data() + i * header.item_bytes, header), file, row * cols + i, cols);
    }
    packer.add(document);
  }
}

}  // namespace quant::calibration
