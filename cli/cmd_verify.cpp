// quant verify: is a finished checkpoint sound?
#include <fmt/format.h>

#include "errors.h"
#include "output.h"
#include "progress.h"
#include "quant/open.h"
#include "quant/verify.h"
#include "session.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

struct VerifyCommand {
  std::string directory;
  bool strict = false;
  int threads = 0;
};

Json verification_json(const VerifyCommand& options, const Verification& result, bool good) {
  Json findings = Json::array();
  for (const Finding& finding : result.findings) {
    findings.push_back({{"severity", std::string(to_string(finding.severity))},
                        {"check", finding.check},
                        {"subject", finding.subject},
                        {"message", finding.message}});
  }
  return {{"checkpoint", options.directory},
          {"ok", good},
          {"errors", result.count(Finding::Severity::error)},
          {"warnings", result.count(Finding::Severity::warning)},
          {"layout", result.layout.empty() ? Json() : Json(result.layout)},
          {"files", result.files},
          {"tensors", result.tensors},
          {"bytes", result.bytes},
          {"linears", result.linears},
          {"scales", result.scales},
          {"caches", result.caches},
          {"report", result.report},
          {"findings", findings}};
}

std::string verification_text(const VerifyCommand& options, const Verification& result, bool good) {
  std::string text;
  for (const Finding& finding : result.findings) {
    text += fmt::format("{}: {}: {} [{}]\n", to_string(finding.severity), printable(finding.subject),
                        printable(finding.message), finding.check);
  }
  std::string quantized = result.linears == 0 ? std::string("none")
                                              : fmt::format("{}, {}, {} scales", counted(result.linears, "linear"),
                                                            result.layout, human_count(result.scales));
  if (result.caches > 0) {
    quantized = fmt::format("{}{}", result.linears == 0 ? std::string() : quantized + "; ",
                            "keys and values of " + counted(result.caches, "attention module"));
  }
  text += field_list({{"checkpoint", options.directory},
                      {"tensors", fmt::format("{} in {}, {}", result.tensors, counted(result.files, "file"),
                                              human_bytes(result.bytes))},
                      {"quantized", quantized},
                      {"report", result.report ? "read" : "not read"},
                      {"result", fmt::format("{}: {}, {}", good ? "good" : "BROKEN",
                                             counted(result.count(Finding::Severity::error), "error"),
                                             counted(result.count(Finding::Severity::warning), "warning"))}});
  return text;
}

// What keeps a checkpoint from being opened is a finding; a directory that does not exist is not.
Verification verify(const VerifyCommand& options, const Session& session) {
  std::unique_ptr<Checkpoint> checkpoint;
  try {
    checkpoint = open_checkpoint(options.directory);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::corrupt_file) throw;
    Verification result;
    result.findings.push_back(finding_of(error, options.directory));
    return result;
  }
  ProgressLine line("verifying", false);
  return verify_checkpoint(*checkpoint, session.registry, scan_options(line, options.threads));
}

int verify_command(const VerifyCommand& options, Session& session) {
  const Verification result = verify(options, session);
  const bool good = result.ok() && !(options.strict && !result.findings.empty());
  write_stdout(session.json ? json_text(verification_json(options, result, good))
                            : verification_text(options, result, good));
  return good ? kExitOk : kExitFinding;
}

}  // namespace

void add_verify(CLI::App& program, Session& session) {
  const auto options = std::make_shared<VerifyCommand>();
  CLI::App* command = add_command(program, session, "verify", "Check that a checkpoint is sound and says what it holds",
                                  "quant verify tiny-w4a16", options, verify_command);
  command->add_option("DIR", options->directory, "Checkpoint: directory, .safetensors or .h5 file")->required();
  command->add_flag("--strict", options->strict, "Warnings count as errors");
  add_threads_option(*command, options->threads);
}

}  // namespace quant::cli
