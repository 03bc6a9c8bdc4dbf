#include "pipeline/run_state.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "pipeline/statistics_keeper.h"
#include "quant/error.h"

namespace quant {
namespace {

using nlohmann::json;

constexpr const char* kStateName = ".quant-state.json";

// Two files in turn, so that the one that the state names is never written to.
std::filesystem::path stream_path(const std::filesystem::path& directory, std::size_t blocks) {
  return directory / (blocks % 2 == 0 ? ".quant-stream.0" : ".quant-stream.1");
}

[[noreturn]] void damaged(const std::filesystem::path& path, const std::string& why) {
  throw Error(ErrorCode::corrupt_file, path.string() + " cannot be read: " + why,
              "start over with --overwrite-partial");
}

json to_json(const BlockReport& report) {
  json entry = {{"name", report.name}, {"notes", report.notes}};
  if (report.output) {
    const OutputErrors& e = *report.output;
    entry["output"] = json::array({e.signal, e.noise, e.dot, e.recon});
  }
  return entry;
}

BlockReport report_from_json(const json& entry) {
  BlockReport report;
  report.name = entry.at("name");
  report.notes = entry.at("notes").get<std::vector<std::string>>();
  if (const auto output = entry.find("output"); output != entry.end()) {
    report.output = OutputErrors{output->at(0), output->at(1), output->at(2), output->at(3)};
  }
  return report;
}

}  // namespace

void save_state(const std::filesystem::path& directory, const RunState& state) {
  const auto path = stream_path(directory, state.blocks);
  json counts = json::array();
  {
    const Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (file.get() < 0) throw_io_error("cannot create", path, errno);
    std::uint64_t offset = 0;
    for (const ActivationStore& stream : state.streams) {
      json of_stream = json::array();
      for (std::size_t chunk = 0; chunk < stream.chunks(); ++chunk) {
        const std::vector<float> values = stream.read(chunk);
        write_floats(file, path, offset, values);
        offset += values.size() * sizeof(float);
        of_stream.push_back(values.size());
      }
      counts.push_back(std::move(of_stream));
    }
    if (::fdatasync(file.get()) != 0) throw_io_error("cannot write", path, errno);
  }
  json document = {{"blocks", state.blocks}, {"values", counts}, {"reports", json::array()}};
  for (const BlockReport& report : state.reports) document["reports"].push_back(to_json(report));
  write_file_atomically(directory / kStateName, document.dump(-1, ' ', false, json::error_handler_t::replace));
  sync_path(directory);
}

RunState load_state(const std::filesystem::path& directory, std::size_t chunks, std::size_t streams,
                    ActivationBudget& budget) {
  RunState state;
  const auto path = directory / kStateName;
  if (!std::filesystem::exists(path)) return state;
  try {
    const json document = json::parse(read_text_file(path));
    state.blocks = document.at("blocks");
    for (const json& entry : document.at("reports")) state.reports.push_back(report_from_json(entry));
    const json& counts = document.at("values");
    if (counts.size() != streams) {
      throw Error(ErrorCode::io,
                  directory.string() + " was begun with" + (counts.size() > streams ? "" : "out") +
                      " the unquantized model beside the quantized one",
                  counts.size() > streams ? "give --block-errors again, or start over with --overwrite-partial"
                                          : "leave --block-errors out, or start over with --overwrite-partial");
    }
    const auto data = stream_path(directory, state.blocks);
    const Descriptor file(::open(data.c_str(), O_RDONLY | O_CLOEXEC));
    if (file.get() < 0) throw_io_error("cannot open", data, errno);
    std::uint64_t offset = 0;
    for (const json& of_stream : counts) {
      if (of_stream.size() != chunks) damaged(path, "it has another number of chunks");
      const std::uint64_t size = std::filesystem::file_size(data);
      ActivationStore store(budget, chunks);
      for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
        const std::uint64_t count = of_stream.at(chunk);
        if (offset > size || count > (size - offset) / sizeof(float)) damaged(data, "it is too short");
        store.put(chunk, read_floats(file, data, offset, count));
        offset += count * sizeof(float);
      }
      state.streams.push_back(std::move(store));
    }
  } catch (const json::exception& problem) {
    damaged(path, problem.what());
  }
  return state;
}

void remove_state(const std::filesystem::path& directory) {
  std::error_code ignored;
  std::filesystem::remove(directory / kStateName, ignored);
  std::filesystem::remove(stream_path(directory, 0), ignored);
  std::filesystem::remove(stream_path(directory, 1), ignored);
  StatisticsKeeper::remove(directory);
}

}  // namespace quant
