// Plain text tables with aligned columns.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quant::cli {

/// Columns are separated by two spaces; the last is not padded, so lines have no spaces at their end.
class Table {
 public:
  enum class Align { left, right };
  struct Column {
    std::string title;
    Align align = Align::left;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  /// One cell for each column (Error{internal} otherwise). Characters that terminals act on are escaped.
  void add(const std::vector<std::string>& cells);
  std::size_t size() const { return rows_.size(); }
  /// Title line, rule, rows; every line starts with `indent`.
  std::string text(std::string_view indent = "") const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

/// "name:   value" lines with the values under each other.
std::string field_list(const std::vector<std::pair<std::string, std::string>>& fields);

}  // namespace quant::cli
