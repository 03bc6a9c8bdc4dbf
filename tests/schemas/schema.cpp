#include "schemas/schema.h"

#include <hdf5.h>
#include <yaml-cpp/yaml.h>

#include <stdexcept>
#include <valijson/adapters/nlohmann_json_adapter.hpp>
#include <valijson/schema.hpp>
#include <valijson/schema_parser.hpp>
#include <valijson/validation_results.hpp>
#include <valijson/validator.hpp>
#include <vector>

#include "support/temp_dir.h"

namespace quant::test {
namespace {

using nlohmann::json;

json json_of_scalar(const YAML::Node& node) {
  const std::string text = node.Scalar();
  if (node.Tag() == "!") return text;  // in quotes
  if (text == "true" || text == "yes" || text == "on") return true;
  if (text == "false" || text == "no" || text == "off") return false;
  if (text.empty() || text == "null" || text == "~") return nullptr;
  if (text.find_first_not_of("+-.0123456789eE") == std::string::npos) {
    const json number = json::parse(text, nullptr, false);
    if (number.is_number()) return number;
  }
  return text;
}

json json_of_node(const YAML::Node& node) {
  json out;
  switch (node.Type()) {
    case YAML::NodeType::Scalar:
      return json_of_scalar(node);
    case YAML::NodeType::Sequence:
      out = json::array();
      for (const auto& item : node) out.push_back(json_of_node(item));
      return out;
    case YAML::NodeType::Map:
      out = json::object();
      for (const auto& entry : node) out[entry.first.Scalar()] = json_of_node(entry.second);
      return out;
    default:
      return nullptr;
  }
}

/// Of ids and of the results of calls.
hid_t good(hid_t id) {
  if (id < 0) throw std::runtime_error("HDF5 failed");
  return id;
}

json attribute_value(hid_t attribute) {
  const hid_t type = good(H5Aget_type(attribute));
  json value;
  if (H5Tget_class(type) == H5T_STRING) {
    if (H5Tis_variable_str(type) <= 0) throw std::runtime_error("a text of fixed length, where h5py gives bytes");
    char* text = nullptr;
    good(H5Aread(attribute, type, &text));
    value = std::string(text == nullptr ? "" : text);
    H5free_memory(text);
  } else {
    std::uint64_t number = 0;
    good(H5Aread(attribute, H5T_NATIVE_UINT64, &number));
    value = number;
  }
  H5Tclose(type);
  return value;
}

json attributes_of(hid_t object) {
  json out = json::object();
  const int count = H5Aget_num_attrs(object);
  for (int i = 0; i < count; ++i) {
    const hid_t attribute = good(H5Aopen_idx(object, static_cast<unsigned>(i)));
    std::vector<char> name(static_cast<std::size_t>(H5Aget_name(attribute, 0, nullptr)) + 1);
    H5Aget_name(attribute, name.size(), name.data());
    out[name.data()] = attribute_value(attribute);
    H5Aclose(attribute);
  }
  return out;
}

json dataset_entry(hid_t dataset) {
  const hid_t type = good(H5Dget_type(dataset));
  const hid_t space = good(H5Dget_space(dataset));
  std::vector<hsize_t> shape(static_cast<std::size_t>(H5Sget_simple_extent_ndims(space)));
  H5Sget_simple_extent_dims(space, shape.data(), nullptr);
  const std::string kind = H5Tget_class(type) == H5T_FLOAT ? "float" : "other";
  json entry = {{"dtype", kind + std::to_string(8 * H5Tget_size(type))}, {"shape", shape}};
  H5Tclose(type);
  H5Sclose(space);
  return entry;
}

json group_entry(hid_t group) {
  json out = json::object();
  if (json attributes = attributes_of(group); !attributes.empty()) out["attributes"] = std::move(attributes);
  H5G_info_t info;
  good(H5Gget_info(group, &info));
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    char name[512];
    H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name, H5P_DEFAULT);
    const hid_t object = good(H5Oopen(group, name, H5P_DEFAULT));
    out[name] = H5Iget_type(object) == H5I_GROUP ? group_entry(object) : dataset_entry(object);
    H5Oclose(object);
  }
  return out;
}

}  // namespace

json schema_document(const std::string& name) {
  return json::parse(read_file(std::string(QUANT_SOURCE_DIR) + "/docs/schemas/" + name + ".schema.json"));
}

std::string violations(const json& document, const json& value) {
  valijson::Schema schema;
  valijson::SchemaParser parser;
  parser.populateSchema(valijson::adapters::NlohmannJsonAdapter(document), schema);
  valijson::Validator validator;
  valijson::ValidationResults results;
  if (validator.validate(schema, valijson::adapters::NlohmannJsonAdapter(value), &results)) return {};
  std::string text;
  for (const auto& error : results) {
    for (const std::string& part : error.context) text += part;
    text += ": " + error.description + "\n";
  }
  return text.empty() ? "not valid" : text;
}

json json_of_yaml(const std::string& text) { return json_of_node(YAML::Load(text)); }

json json_of_hdf5(const std::filesystem::path& file) {
  const hid_t id = good(H5Fopen(file.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT));
  const hid_t root = good(H5Gopen2(id, "/", H5P_DEFAULT));
  json tree = group_entry(root);
  H5Gclose(root);
  H5Fclose(id);
  return tree;
}

}  // namespace quant::test
