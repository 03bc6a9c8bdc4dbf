// A map from pairs of 32-bit numbers to 64-bit values: open addressing, filled once, read often.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace quant::tok {

class PairMap {
 public:
  static constexpr std::uint64_t kNone = ~std::uint64_t{0};  ///< neither a key nor a value

  explicit PairMap(std::size_t capacity = 0)
      : slots_(std::bit_ceil(2 * capacity + 2)), shift_(64 - std::countr_zero(slots_.size())) {}

  static std::uint64_t key(std::uint32_t a, std::uint32_t b) { return (std::uint64_t{a} << 32) | b; }

  /// At most `capacity` different keys; a later value replaces an earlier one.
  void put(std::uint64_t key, std::uint64_t value) {
    Slot& slot = slots_[place(key)];
    slot.key = key;
    slot.value = value;
  }
  /// kNone if the key is not there.
  std::uint64_t find(std::uint64_t key) const { return slots_[place(key)].value; }

 private:
  struct Slot {
    std::uint64_t key = kNone;
    std::uint64_t value = kNone;
  };

  std::size_t place(std::uint64_t key) const {
    std::size_t at = static_cast<std::size_t>((key * 0x9E3779B97F4A7C15U) >> shift_);
    while (slots_[at].key != key && slots_[at].key != kNone) at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  std::vector<Slot> slots_;
  int shift_;
};

}  // namespace quant::tok
