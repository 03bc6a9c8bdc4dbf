// Any text is either refused with an Error or is a report that every writer can take.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "quant/error.h"
#include "quant/report.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const quant::RunReport report = quant::report_from_json(text, "fuzz");
    const std::string again = quant::report_to_json(report);
    if (quant::report_to_json(quant::report_from_json(again, "again")) != again) std::abort();
    quant::report_to_html(report);
    quant::report_to_csv(report);
  } catch (const quant::Error&) {
  }
  return 0;
}
