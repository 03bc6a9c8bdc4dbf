#include "output/files.h"
#include "quant/report.h"

namespace quant {

void write_report_files(const RunReport& report, const std::filesystem::path& directory) {
  write_report_hdf5(report, directory / "report.h5");
  sync_path(directory / "report.h5");
  write_file_atomically(directory / "report.html", report_to_html(report));
  write_file_atomically(directory / "report.json", report_to_json(report));
  sync_path(directory);
}

}  // namespace quant
