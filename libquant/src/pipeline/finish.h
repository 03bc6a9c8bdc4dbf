// The last steps of a run: the report and the small files of the output.
#pragma once

#include <filesystem>
#include <map>

#include "pipeline/journal.h"
#include "quant/plan.h"
#include "quant/report.h"

namespace quant {

/// The report of finished items, whose arrays it takes over; clock and machine entries are the caller's.
RunReport assemble_report(const Plan& plan, std::map<ItemKey, ItemResult>&& results);
/// Writes config.json, the index, the recipe, the model's companion files and the reports, all durable; report.json
/// comes last. Raises report.peak_memory_measured by what the reports themselves take.
void write_small_files(const Plan& plan, RunReport& report, const std::filesystem::path& directory);
/// Resident memory of this process without mapped file pages, in bytes; 0 where the system does not tell.
std::uint64_t anonymous_memory();
/// The largest part of memory that this process has had, mapped file pages included; 0 if the system does not tell.
std::uint64_t peak_resident_memory();
/// "AMD EPYC 9B14, avx512, 2 threads".
std::string describe_machine(int threads);
/// Now, as "2026-01-31T12:00:00Z".
std::string utc_now();

}  // namespace quant
