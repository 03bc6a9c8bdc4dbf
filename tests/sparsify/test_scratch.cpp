// What pruning takes in memory, as it says beforehand: every `new` of this program is counted.
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>

#include "quant/magnitude.h"
#include "quant/sparsegpt.h"
#include "quant/wanda.h"
#include "support/catch.h"

namespace {

std::atomic<std::int64_t> taken{0}, most{0};

void count(void* at) {
  const std::int64_t now = taken += static_cast<std::int64_t>(malloc_usable_size(at));
  std::int64_t before = most;
  while (before < now && !most.compare_exchange_weak(before, now)) {
  }
}

}  // namespace

void* operator new(std::size_t size) {
  void* at = std::malloc(std::max<std::size_t>(size, 1));
  if (at == nullptr) throw std::bad_alloc();
  count(at);
  return at;
}
// Temporary buffers of stable_sort.
void* operator new(std::size_t size, const std::nothrow_t& /*tag*/) noexcept {
  void* at = std::malloc(std::max<std::size_t>(size, 1));
  if (at != nullptr) count(at);
  return at;
}
void operator delete(void* at) noexcept {
  if (at == nullptr) return;
  taken -= static_cast<std::int64_t>(malloc_usable_size(at));
  std::free(at);
}
void operator delete(void* at, std::size_t /*size*/) noexcept { operator delete(at); }

using namespace quant;

namespace {

InputStatistics inputs_of(std::uint64_t cols) {
  InputStatistics inputs;
  inputs.tokens = 4 * cols;
  inputs.cols = cols;
  inputs.gram.assign(cols * cols, 0.1F);
  for (std::uint64_t c = 0; c < cols; ++c) {
    inputs.gram[c * cols + c] = 1.5F;
    inputs.square.push_back(1.5F);
  }
  return inputs;
}

struct Measured {
  std::int64_t planned = 0, peak = 0;
};

Measured prune(const Sparsifier& sparsifier, const std::string& pattern, std::uint64_t rows, std::uint64_t cols,
               int threads) {
  const InputStatistics inputs = inputs_of(cols);
  std::minstd_rand random(3);
  std::normal_distribution<float> normal;
  std::vector<float> weight(rows * cols);
  for (float& w : weight) w = normal(random);
  std::vector<std::uint8_t> mask(weight.size(), 1);
  PruneTask task;
  task.module = "model.layers.0.mlp.up_proj";
  task.rows = rows;
  task.cols = cols;
  task.weight = weight;
  task.mask = mask;
  task.pattern = pattern.empty() ? SparsityPattern{} : parse_pattern(pattern);
  if (task.pattern.of == 0) task.pattern.sparsity = 0.5;
  Measured measured;
  measured.planned = static_cast<std::int64_t>(sparsifier.scratch_bytes(task.pattern, rows, cols, threads));
  const std::int64_t before = taken;
  most = before;
  sparsifier.prune(std::span(&task, 1), inputs, {threads, nullptr});
  measured.peak = most - before;
  return measured;
}

}  // namespace

TEST_CASE("pruning takes no more memory than it says, and says little more than it takes") {
  const Parameters exact = {{"refit", std::string("exact")}};
  const Parameters scale = {{"refit", std::string("scale")}};
  const Parameters admm = {{"refit", std::string("exact")}, {"mask_search", std::string("admm")}};
  const Parameters search_only = {{"mask_search", std::string("admm")}};
  const Parameters reference = {{"threshold", std::string("reference")}};
  const Parameters cumulative = {{"variant", std::string("cumulative")}};
  struct Case {
    const char* name;
    std::unique_ptr<Sparsifier> sparsifier;
    const char* pattern;
  };
  std::vector<Case> cases;
  cases.push_back({"sparsegpt", make_sparsegpt({}), ""});
  cases.push_back({"sparsegpt 2:4", make_sparsegpt({}), "2:4"});
  cases.push_back({"sparsegpt blocks", make_sparsegpt({}), "4x1"});
  cases.push_back({"sparsegpt reference", make_sparsegpt(reference), ""});
  cases.push_back({"sparsegpt exact", make_sparsegpt(exact), ""});
  cases.push_back({"sparsegpt scale", make_sparsegpt(scale), "2:4"});
  cases.push_back({"sparsegpt admm", make_sparsegpt(search_only), ""});
  cases.push_back({"sparsegpt admm exact", make_sparsegpt(admm), ""});
  cases.push_back({"sparsegpt admm exact 2:4", make_sparsegpt(admm), "2:4"});
  cases.push_back({"wanda", make_wanda({}), ""});
  cases.push_back({"wanda exact", make_wanda(exact), "2:4"});
  cases.push_back({"wanda cumulative", make_wanda(cumulative), ""});
  cases.push_back({"magnitude", make_magnitude({}), ""});
  cases.push_back({"magnitude blocks", make_magnitude({}), "2x1"});
  cases.push_back({"magnitude exact", make_magnitude(exact), ""});
  for (const Case& one : cases) {
    for (const auto& [rows, cols] : {std::pair{768, 512}, std::pair{256, 1024}}) {
      const Measured measured =
          prune(*one.sparsifier, one.pattern, static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(cols), 2);
      CAPTURE(one.name, rows, cols, measured.planned, measured.peak);
      CHECK(measured.peak <= measured.planned);
      // Histograms of each thread, which count little beside a real weight.
      CHECK(static_cast<double>(measured.planned) <= 1.2 * static_cast<double>(measured.peak) + 2.5e6);
    }
  }
}
