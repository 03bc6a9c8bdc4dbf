// The pieces of the report page. Each appends HTML to `out`; every text from the report is escaped.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "quant/report.h"
#include "report/report_summary.h"

namespace quant::report {

/// What every piece needs, computed once.
struct Page {
  const RunReport& report;
  Grouping grouping;
  ErrorSums total;
  WeightMetrics metrics;              ///< of `total`
  std::vector<WeightMetrics> layers;  ///< one per layer
  std::vector<std::size_t> worst;     ///< worst layers first
  std::vector<std::size_t> listed;    ///< layers that have a row in the table, in model order
  std::vector<bool> is_listed;        ///< one per layer

  explicit Page(const RunReport& source);
};

/// Colours for this many kinds; further kinds share the last class.
inline constexpr std::size_t kKindColours = 8;
/// CSS class of the colour of a kind: "k0".."k7", "k8" for the rest.
std::string kind_class(std::size_t kind);
/// Layers that the page lists at most: a model of experts has tens of thousands.
inline constexpr std::size_t kMaxListed = 3000;

/// A name of a module: a link to its row of the table where there is one.
std::string layer_link(const Page& page, std::size_t layer);

void add_header(const Page& page, std::string& out);          ///< title and verdict
void add_summary(const Page& page, std::string& out);         ///< the four figures that answer first
void add_remarks(const Page& page, std::string& out);         ///< warnings, fallbacks
void add_evaluation(const Page& page, std::string& out);      ///< perplexity and divergence, if measured
void add_size(const Page& page, std::string& out);            ///< bytes by kind
void add_error_by_layer(const Page& page, std::string& out);  ///< SQNR along the model
void add_heat_map(const Page& page, std::string& out);        ///< block x kind
void add_worst(const Page& page, std::string& out);
void add_histogram(const Page& page, std::string& out);  ///< NMSE of rows
void add_skipped(const Page& page, std::string& out);
void add_layer_table(const Page& page, std::string& out);
void add_run(const Page& page, std::string& out);  ///< identity, recipe, how to read

std::string_view page_style();
std::string_view page_script();
/// SHA-256 of page_script() in base64, for the page's content security policy: no other script runs.
std::string_view page_script_hash();

}  // namespace quant::report
