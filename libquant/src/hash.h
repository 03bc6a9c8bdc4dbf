// 128-bit fingerprints (XXH3) as hexadecimal text.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace quant {

/// Of bytes that come piece by piece; how they are divided does not matter.
class Hash {
 public:
  Hash();
  ~Hash();
  Hash(const Hash&) = delete;
  Hash& operator=(const Hash&) = delete;

  void add(const void* bytes, std::size_t count);
  /// 32 hexadecimal digits, the high half first.
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string hash_hex(std::string_view bytes);

}  // namespace quant
