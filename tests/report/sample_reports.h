// Reports to test the writers with.
#pragma once

#include "quant/report.h"

namespace quant::test {

/// Two layers and one skipped tensor, round numbers: for golden text.
RunReport small_report();
/// The same as a calibrated run: one layer with all figures, one with a fallback and no Gram matrix.
RunReport calibrated_report();

/// The small report with an evaluation against a base: three windows of eight tokens.
RunReport evaluated_report();
/// The small report as a run that took statistics from a file.
RunReport imported_report();

/// What a run on a Llama of `blocks` blocks would report: row errors that spread, kinds that differ, a few bad layers.
RunReport llama_report(int blocks);

/// A report in which every text is an attack on a page.
RunReport hostile_report();

}  // namespace quant::test
