#include "calibration/chat_template.h"

#include <functional>

#include "output/files.h"
#include "quant/error.h"

namespace quant {

namespace {

using nlohmann::json;

[[noreturn]] void wrong(const std::string& where, const std::string& what) {
  throw Error(ErrorCode::corrupt_file, where + ": " + what,
              "docs/calibration.md shows what conversations and chat templates look like.", "InvalidConversation");
}

std::string with_role(std::string text, const std::string& role) {
  constexpr std::string_view kMark = "{role}";
  for (std::size_t at = text.find(kMark); at != std::string::npos; at = text.find(kMark, at + role.size())) {
    text.replace(at, kMark.size(), role);
  }
  return text;
}

std::string content_of(const json& message, const std::string& where) {
  const auto content = message.find("content");
  if (content == message.end()) wrong(where, "has no 'content'");
  if (content->is_null()) return {};
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) wrong(where, "has a 'content' that is neither text nor a list of parts");
  std::string text;
  for (const json& part : *content) {
    const bool is_text =
        part.is_object() && part.value("type", json()) == "text" && part.value("text", json()).is_string();
    if (!is_text) wrong(where, "has a part of its 'content' that is no text");
    text += part.at("text").get<std::string>();
  }
  return text;
}

// Members of an object that are strings; any other member or type is a mistake.
using Target = std::function<std::string*(const std::string& key)>;
void read_texts(const json& object, const std::string& where, const Target& set) {
  if (!object.is_object()) wrong(where, "is not an object");
  for (const auto& [key, value] : object.items()) {
    std::string* target = set(key);
    if (target == nullptr) wrong(where, "has the unknown member '" + key.substr(0, 80) + "'");
    if (!value.is_string()) wrong(where, "has a '" + key + "' that is no text");
    *target = value.get<std::string>();
  }
}

ChatTemplate::Part read_part(const json& object, const std::string& where) {
  ChatTemplate::Part part;
  read_texts(object, where, [&](const std::string& key) -> std::string* {
    return key == "prefix" ? &part.prefix : key == "suffix" ? &part.suffix : nullptr;
  });
  return part;
}

}  // namespace

ChatTemplate ChatTemplate::read(const std::filesystem::path& file) {
  const std::string name = file.string();
  const std::string text = read_text_file(file);
  json document;
  try {
    document = json::parse(text);
  } catch (const json::exception& error) {
    wrong(name, std::string("is not JSON: ") + error.what());
  }
  ChatTemplate chat;
  if (document.is_object() && document.contains("roles")) {
    const json roles = document.at("roles");
    if (!roles.is_object()) wrong(name, "has 'roles' that are not an object");
    for (const auto& [role, part] : roles.items()) {
      (role == "*" ? chat.other : chat.roles[role]) = read_part(part, name + ": role '" + role.substr(0, 80) + "'");
    }
    document.erase("roles");
  }
  read_texts(document, name, [&](const std::string& key) -> std::string* {
    return key == "begin" ? &chat.begin : key == "end" ? &chat.end : nullptr;
  });
  return chat;
}

std::string calibration::join_messages(const json& messages, const ChatTemplate& chat, const std::string& where) {
  if (!messages.is_array()) wrong(where, "'messages' is not a list");
  std::string text = chat.begin;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const json& message = messages[i];
    const std::string place = where + ", message " + std::to_string(i + 1);
    if (!message.is_object()) wrong(place, "is not an object");
    const auto role = message.find("role");
    if (role == message.end() || !role->is_string()) wrong(place, "has no 'role'");
    const auto name = role->get<std::string>();
    const auto found = chat.roles.find(name);
    const ChatTemplate::Part& part = found == chat.roles.end() ? chat.other : found->second;
    text += with_role(part.prefix, name) + content_of(message, place) + with_role(part.suffix, name);
  }
  return text + chat.end;
}

}  // namespace quant
