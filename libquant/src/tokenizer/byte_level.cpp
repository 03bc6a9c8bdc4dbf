#include "tokenizer/byte_level.h"

#include <array>

#include "tokenizer/unicode.h"

namespace quant::tok {

namespace {

bool stands_for_itself(unsigned byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
}

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int, 0x144> bytes{};  // by code point; -1: none
};

const Alphabet& alphabet() {
  static const Alphabet table = [] {
    Alphabet made;
    made.bytes.fill(-1);
    char32_t next = 256;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const char32_t c = stands_for_itself(byte) ? byte : next++;
      made.characters[byte] = to_utf8(c);
      made.bytes[c] = static_cast<int>(byte);
    }
    return made;
  }();
  return table;
}

}  // namespace

void append_byte_level(std::string& out, std::string_view text) {
  const auto& characters = alphabet().characters;
  for (const char c : text) out.append(characters[static_cast<unsigned char>(c)]);
}

std::optional<unsigned char> byte_of(char32_t character) {
  const auto& bytes = alphabet().bytes;
  if (character >= bytes.size() || bytes[character] < 0) return std::nullopt;
  return static_cast<unsigned char>(bytes[character]);
}

}  // namespace quant::tok
