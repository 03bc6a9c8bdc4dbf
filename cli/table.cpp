#include "table.h"

#include <fmt/format.h>

#include <algorithm>

#include "quant/error.h"
#include "units.h"

namespace quant::cli {
namespace {

void append_cell(std::string& line, const std::string& cell, std::size_t width, Table::Align align) {
  const std::string padding(width - std::min(width, display_width(cell)), ' ');
  line += align == Table::Align::left ? cell + padding : padding + cell;
}

void append_line(std::string& out, std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  out += line + "\n";
}

}  // namespace

void Table::add(const std::vector<std::string>& cells) {
  if (cells.size() != columns_.size()) {
    throw Error(ErrorCode::internal, fmt::format("a table of {} columns got {} cells", columns_.size(), cells.size()));
  }
  std::vector<std::string>& row = rows_.emplace_back();
  for (const std::string& cell : cells) row.push_back(printable(cell));
}

std::string Table::text(std::string_view indent) const {
  std::vector<std::size_t> widths;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    widths.push_back(display_width(columns_[c].title));
    for (const auto& row : rows_) widths[c] = std::max(widths[c], display_width(row[c]));
  }
  std::string out;
  std::string titles(indent);
  std::string rule(indent);
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    const std::string gap = c == 0 ? "" : "  ";
    titles += gap;
    append_cell(titles, columns_[c].title, widths[c], columns_[c].align);
    rule += gap + std::string(widths[c], '-');
  }
  append_line(out, titles);
  append_line(out, rule);
  for (const auto& row : rows_) {
    std::string line(indent);
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      if (c > 0) line += "  ";
      append_cell(line, row[c], widths[c], columns_[c].align);
    }
    append_line(out, line);
  }
  return out;
}

std::string field_list(const std::vector<std::pair<std::string, std::string>>& fields) {
  std::size_t width = 0;
  for (const auto& [name, value] : fields) width = std::max(width, display_width(name) + 1);
  std::string out;
  for (const auto& [name, value] : fields) {
    append_line(out, name + ":" + std::string(width - display_width(name), ' ') + printable(value));
  }
  return out;
}

}  // namespace quant::cli
