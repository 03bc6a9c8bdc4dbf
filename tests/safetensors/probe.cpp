// Opens or writes one file, for check_with_python.py.
//   safetensors_probe read FILE    prints a line of JSON: {"kind": ...} or {"metadata": ..., "tensors": ...}
//   safetensors_probe write FILE   writes what the JSON on standard input describes
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "quant/error.h"
#include "quant/open.h"
#include "quant/registry.h"

namespace quant {
void register_safetensors(Registry& registry);
}

namespace {

using nlohmann::json;

json read(const std::string& path) {
  const auto checkpoint = quant::open_checkpoint(path);
  json result{{"metadata", json::object()}, {"tensors", json::object()}};
  for (const auto& [key, value] : checkpoint->files()[0].metadata) result["metadata"][key] = value;
  for (const quant::TensorInfo& info : checkpoint->tensors()) {
    std::uint64_t hash = 14695981039346656037U;  // FNV-1a
    for (const std::byte byte : checkpoint->view(info).bytes) {
      hash = (hash ^ std::to_integer<std::uint64_t>(byte)) * 1099511628211U;
    }
    result["tensors"][info.name] = {
        {"dtype", quant::dtype_name(info.dtype)}, {"shape", info.shape}, {"offset", info.offset}, {"hash", hash}};
  }
  return result;
}

void write(const std::string& path) {
  const json input = json::parse(std::cin);
  std::vector<quant::StoredTensor> tensors;
  for (const json& tensor : input["tensors"]) {
    tensors.push_back({tensor["name"], *quant::parse_dtype(tensor["dtype"].get<std::string>()), tensor["shape"]});
  }
  std::vector<std::pair<std::string, std::string>> metadata;
  for (const auto& [key, value] : input["metadata"].items()) metadata.emplace_back(key, value);
  quant::Registry registry;
  quant::register_safetensors(registry);
  const auto writer = registry.container("safetensors")->create(path, tensors, metadata, false);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::vector<std::uint8_t> data = input["tensors"][i]["data"];
    writer->write(i, 0, std::as_bytes(std::span(data)));
  }
  writer->sync();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    if (std::string(argv[1]) == "write") {
      write(argv[2]);
    } else {
      std::cout << read(argv[2]).dump() << '\n';
    }
  } catch (const quant::Error& error) {
    std::cout << json{{"kind", error.kind()}, {"message", error.what()}}.dump() << '\n';
  }
  return 0;
}
