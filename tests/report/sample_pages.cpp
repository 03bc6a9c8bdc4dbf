// Writes sample reports into a directory: pages for the browser test and for a look at them, and one file of each other
// kind (small_report.json is what tests/report/golden/ holds).
#include <filesystem>
#include <fstream>
#include <iostream>
#include <stdexcept>

#include "sample_reports.h"

namespace {

void write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  if (!out.flush()) throw std::runtime_error("cannot write " + path.string());
}

// A model of experts without row arrays: many layers in one cell of the map.
quant::RunReport experts_report() {
  quant::RunReport one = quant::test::llama_report(8);
  quant::RunReport report = one;
  report.layers.clear();
  for (const quant::LayerReport& layer : one.layers) {
    const std::size_t mlp = layer.module.find("mlp.");
    for (int expert = 0; expert < (mlp == std::string::npos ? 1 : 96); ++expert) {
      report.layers.push_back(layer);
      report.layers.back().row_nmse.clear();
      if (mlp == std::string::npos) continue;
      report.layers.back().module.insert(mlp + 4, "experts." + std::to_string(expert) + ".");
      report.layers.back().sums.noise *= 1 + 0.01 * (expert % 17);
    }
  }
  return report;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: sample_pages DIRECTORY\n";
    return 2;
  }
  const std::filesystem::path folder = argv[1];
  std::filesystem::create_directories(folder);
  using namespace quant::test;
  write(folder / "llama.html", quant::report_to_html(llama_report(32)));
  write(folder / "hostile.html", quant::report_to_html(hostile_report()));
  write(folder / "empty.html", quant::report_to_html({}));
  write(folder / "one.html", quant::report_to_html(llama_report(1)));
  write(folder / "small.html", quant::report_to_html(small_report()));
  write(folder / "large.html", quant::report_to_html(experts_report()));
  write(folder / "small_report.json", quant::report_to_json(small_report()));
  quant::write_report_hdf5(llama_report(4), folder / "report.h5");
  return 0;
}
