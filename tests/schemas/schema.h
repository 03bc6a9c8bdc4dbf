// The documents of docs/schemas, and what an independent validator (valijson) says of files against them.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace quant::test {

/// "recipe": docs/schemas/recipe.schema.json.
nlohmann::json schema_document(const std::string& name);
/// Empty if `value` is valid; else where and why not, one line each.
std::string violations(const nlohmann::json& schema, const nlohmann::json& value);

/// YAML as JSON: scalars without quotes that look like numbers, booleans or nothing are these.
nlohmann::json json_of_yaml(const std::string& text);
/// Attributes, datasets (type and shape) and groups of a file, as docs/schemas/README.md lists them.
nlohmann::json json_of_hdf5(const std::filesystem::path& file);

}  // namespace quant::test
