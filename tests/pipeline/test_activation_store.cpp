// Activations in memory and in a file.
#include "pipeline/activation_store.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant;
using namespace quant::test;

TEST_CASE("a stream that passes block after block needs its place on disk once") {
  const TempDir dir;
  ActivationBudget budget(dir.path(), 10 * sizeof(float));
  ActivationStore store(budget, 3);
  const auto values = [](std::size_t chunk, int block) {
    return std::vector<float>(10, static_cast<float>(10 * block) + static_cast<float>(chunk));
  };
  for (std::size_t c = 0; c < 3; ++c) store.put(c, values(c, 0));
  CHECK(store.spilled_bytes() == 20 * sizeof(float));
  for (int block = 1; block < 5; ++block) {
    for (std::size_t c = 0; c < 3; ++c) {
      CHECK(store.take(c) == values(c, block - 1));
      store.put(c, values(c, block));
    }
  }
  CHECK(store.spilled_bytes() == 20 * sizeof(float));
  // More than the place holds goes elsewhere, less stays.
  store.put(1, std::vector<float>(30, 7.0F));
  CHECK(store.spilled_bytes() == 50 * sizeof(float));
  store.put(1, std::vector<float>(20, 8.0F));
  CHECK(store.spilled_bytes() == 50 * sizeof(float));
  CHECK(store.read(1) == std::vector<float>(20, 8.0F));
  CHECK(store.read(2) == values(2, 4));
}
