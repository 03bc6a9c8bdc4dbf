#include "hash.h"

#include <fmt/format.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

namespace quant {

struct Hash::State {
  XXH3_state_t state;
};

Hash::Hash() : state_(std::make_unique<State>()) { XXH3_128bits_reset(&state_->state); }
Hash::~Hash() = default;

void Hash::add(const void* bytes, std::size_t count) { XXH3_128bits_update(&state_->state, bytes, count); }

std::string Hash::hex() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(&state_->state);
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::string hash_hex(std::string_view bytes) {
  Hash hash;
  hash.add(bytes.data(), bytes.size());
  return hash.hex();
}

}  // namespace quant
