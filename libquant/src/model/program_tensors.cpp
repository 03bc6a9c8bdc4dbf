#include "model/program_tensors.h"

#include <fmt/format.h>

#include "quant/error.h"
#include "quant/names.h"

namespace quant {
namespace {

const char* const kHint =
    "config.json and the tensors do not belong together, or a file is missing; fetch the model again.";

std::string similar(const LogicalTensors& tensors, const std::string& name) {
  std::vector<std::string> names;
  for (const LogicalTensor& tensor : tensors.tensors()) names.push_back(tensor.name);
  const std::string nearest = nearest_name(name, names);
  return nearest.empty() ? std::string() : fmt::format(" (there is '{}')", nearest);
}

}  // namespace

std::string ProgramTensors::require(const std::string& name, const Shape& shape) const {
  const std::string location = tensors_.checkpoint().location().string();
  const LogicalTensor* tensor = tensors_.find(name);
  if (tensor == nullptr) {
    throw Error(ErrorCode::corrupt_file,
                fmt::format("{} has no tensor '{}', which a '{}' model of its config.json has with shape {}{}",
                            location, name, model_type_, to_string(shape), similar(tensors_, name)),
                kHint, "MissingTensor");
  }
  if (tensor->shape != shape) {
    throw Error(ErrorCode::corrupt_file,
                fmt::format("{}: tensor '{}' has shape {}; a '{}' model of its config.json has {}", location, name,
                            to_string(tensor->shape), model_type_, to_string(shape)),
                kHint, "WrongShape");
  }
  if (!tensor->numeric) {
    throw Error(ErrorCode::corrupt_file, fmt::format("{}: tensor '{}' holds no numbers", location, name), kHint,
                "NotNumeric");
  }
  return name;
}

}  // namespace quant
