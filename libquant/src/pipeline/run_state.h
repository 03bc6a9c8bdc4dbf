// What a calibrated run must know to go on after a kill: the residual stream behind the last finished block.
#pragma once

#include <filesystem>
#include <vector>

#include "pipeline/activation_store.h"
#include "quant/report.h"

namespace quant {

struct RunState {
  std::size_t blocks = 0;                ///< programs that are finished, the embeddings among them
  std::vector<BlockReport> reports;      ///< of finished decoder layers
  std::vector<ActivationStore> streams;  ///< the quantized model's, then the unquantized one's if it runs
};

/// Makes `state` durable in the partial directory; an earlier state stays whole until then. Items of finished blocks
/// must be durable already. The stores keep their contents.
void save_state(const std::filesystem::path& directory, const RunState& state);
/// Reads the state, its streams into stores of `budget`; one without blocks if there is none. Throws
/// Error{corrupt_file} for a damaged one.
RunState load_state(const std::filesystem::path& directory, std::size_t chunks, std::size_t streams,
                    ActivationBudget& budget);
/// Deletes the files of both.
void remove_state(const std::filesystem::path& directory);

}  // namespace quant
