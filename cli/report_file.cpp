#include "report_file.h"

#include <fmt/format.h>

#include <fstream>
#include <sstream>

#include "quant/error.h"

namespace quant::cli {

namespace fs = std::filesystem;

RunReport load_report(const fs::path& file, bool arrays) {
  std::ifstream in(file, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  if (!in) throw Error(ErrorCode::io, fmt::format("cannot read {}", file.string()));
  RunReport report = report_from_json(text.str(), file.string());
  const fs::path h5 = fs::path(file).replace_extension(".h5");
  if (arrays && fs::exists(h5)) read_report_hdf5_arrays(h5, report);
  return report;
}

}  // namespace quant::cli
