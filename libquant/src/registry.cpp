#include "quant/registry.h"

#include <utility>

#include "quant/error.h"

namespace quant {
namespace {

template <class Entries, class Name>
auto* find_by_name(const Entries& entries, std::string_view wanted, Name name_of) {
  for (const auto& entry : entries) {
    if (name_of(entry) == wanted) return &entry;
  }
  return static_cast<decltype(&entries.front())>(nullptr);
}

[[noreturn]] void reject_duplicate(std::string_view name) {
  throw Error(ErrorCode::internal, "'" + std::string(name) + "' is registered twice");
}

}  // namespace

void Registry::add(AlgorithmEntry entry) {
  if (algorithm(entry.name) != nullptr) reject_duplicate(entry.name);
  algorithms_.push_back(std::move(entry));
}

void Registry::add(std::unique_ptr<Layout> layout_entry) {
  if (layout(layout_entry->name()) != nullptr) reject_duplicate(layout_entry->name());
  layouts_.push_back(std::move(layout_entry));
}

void Registry::add(std::unique_ptr<Container> container_entry) {
  if (container(container_entry->name()) != nullptr) reject_duplicate(container_entry->name());
  containers_.push_back(std::move(container_entry));
}

const AlgorithmEntry* Registry::algorithm(std::string_view name) const {
  return find_by_name(algorithms_, name, [](const AlgorithmEntry& e) { return std::string_view(e.name); });
}

const AlgorithmEntry* Registry::modifier(std::string_view class_name) const {
  return find_by_name(algorithms_, class_name, [](const AlgorithmEntry& e) { return std::string_view(e.modifier); });
}

const Layout* Registry::layout(std::string_view name) const {
  const auto* found = find_by_name(layouts_, name, [](const auto& e) { return e->name(); });
  return found == nullptr ? nullptr : found->get();
}

const Container* Registry::container(std::string_view name) const {
  const auto* found = find_by_name(containers_, name, [](const auto& e) { return e->name(); });
  return found == nullptr ? nullptr : found->get();
}

}  // namespace quant
