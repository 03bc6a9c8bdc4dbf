// Stands in for libFuzzer's main: feeds a fuzz target every seed below the folder given, and copies of each that are
// cut short or have one byte changed. The same inputs on every run; without any seed it fails.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "support/temp_dir.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr std::size_t kVariants = 64;  // damaged copies of each kind per seed

void feed(const std::string& bytes) {
  // A heap block of the exact size: AddressSanitizer sees every read past the end.
  const std::vector<std::uint8_t> exact(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

void feed_with_damage(const std::string& seed) {
  feed(seed);
  const std::size_t count = std::min(kVariants, seed.size());
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t place = i * seed.size() / count;
    feed(seed.substr(0, place));
    std::string changed = seed;
    changed[place] = static_cast<char>(changed[place] ^ (1 << (i % 8)));
    feed(changed);
    changed[place] = '\xff';
    feed(changed);
  }
}

std::vector<std::filesystem::path> files_below(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  if (!std::filesystem::exists(folder)) return files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::size_t seeds = 0;
    feed("");
    for (int i = 1; i < argc; ++i) {
      for (const std::filesystem::path& file : files_below(argv[i])) {
        feed_with_damage(quant::test::read_file(file));
        ++seeds;
      }
    }
    std::printf("%zu seeds replayed\n", seeds);
    return seeds > 0 ? 0 : 1;  // without seeds nothing was tested
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
