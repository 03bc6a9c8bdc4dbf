// Files made by hand, and the kind of the error that a call ends with.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "containers/safetensors/header.h"
#include "quant/checkpoint.h"
#include "quant/error.h"
#include "quant/open.h"
#include "quant/registry.h"
#include "support/catch.h"
#include "support/temp_dir.h"

namespace quant {
void register_safetensors(Registry& registry);
}

namespace quant::test {

inline std::string length_field(std::uint64_t length) {
  std::string field(8, '\0');
  std::memcpy(field.data(), &length, 8);
  return field;
}

/// A file with this JSON text, unpadded, and this data.
inline std::string make_file(const std::string& json, const std::string& data = {}) {
  return length_field(json.size()) + json + data;
}

/// {"<name>":{"dtype":"U8","shape":[bytes],"data_offsets":[begin,begin+bytes]}} without the outer braces.
inline std::string u8_entry(const std::string& name, std::uint64_t begin, std::uint64_t bytes) {
  return "\"" + name + "\":{\"dtype\":\"U8\",\"shape\":[" + std::to_string(bytes) + "],\"data_offsets\":[" +
         std::to_string(begin) + "," + std::to_string(begin + bytes) + "]}";
}

inline std::span<const std::byte> as_bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

inline std::string as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline safetensors::Header parse(const std::string& file) {
  return safetensors::parse_header(as_bytes(file), file.size(), "test.safetensors");
}

/// What a call failed with; `kind` is "(no error)" if it did not.
struct Failure {
  std::string kind = "(no error)";
  ErrorCode code = ErrorCode::internal;
  std::string message;
  std::string hint;
};

template <class Call>
Failure failure_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return {error.kind(), error.code(), error.what(), error.hint()};
  }
  return {};
}

template <class Call>
std::string kind_of(Call&& call) {
  return failure_of(std::forward<Call>(call)).kind;
}

inline bool mentions(const Failure& failure, std::string_view text) {
  INFO(failure.message);
  return failure.message.find(text) != std::string::npos;
}

/// The container as a program gets it: from the registry.
class SafetensorsContainer {
 public:
  SafetensorsContainer() { register_safetensors(registry_); }
  const Container* operator->() const { return registry_.container("safetensors"); }

 private:
  Registry registry_;
};

/// A safetensors file of U8 tensors with the given contents.
inline void save_u8(const std::filesystem::path& path,
                    const std::vector<std::pair<std::string, std::string>>& tensors) {
  std::vector<StoredTensor> stored;
  for (const auto& [name, data] : tensors) stored.push_back({name, DType::U8, {data.size()}});
  const auto writer = SafetensorsContainer()->create(path, stored, {}, false);
  for (std::size_t i = 0; i < tensors.size(); ++i) writer->write(i, 0, as_bytes(tensors[i].second));
}

}  // namespace quant::test
