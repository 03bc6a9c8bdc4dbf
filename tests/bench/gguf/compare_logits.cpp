// Tokens and logits of a GGUF file in llama.cpp beside those of this library from the same file. See README.md.
#include <llama.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "quant/language_model.h"
#include "quant/open.h"
#include "quant/registry.h"
#include "quant/tokenizer.h"

namespace {

std::vector<llama_token> llama_tokens(const llama_vocab* vocab, const std::string& text) {
  std::vector<llama_token> ids(text.size() + 8);
  const int count = llama_tokenize(vocab, text.data(), static_cast<int>(text.size()), ids.data(),
                                   static_cast<int>(ids.size()), true, false);
  ids.resize(static_cast<std::size_t>(std::max(0, count)));
  return ids;
}

struct Loaded {
  llama_model* model;
  llama_context* context;
};

Loaded load(const char* file, std::uint32_t tokens) {
  llama_log_set(
      [](ggml_log_level level, const char* text, void*) {
        if (level >= GGML_LOG_LEVEL_WARN) std::fprintf(stderr, "%s", text);
      },
      nullptr);
  llama_backend_init();
  llama_model_params model = llama_model_default_params();
  model.n_gpu_layers = 0;
  Loaded loaded{llama_model_load_from_file(file, model), nullptr};
  if (loaded.model == nullptr) return loaded;
  llama_context_params context = llama_context_default_params();
  context.n_ctx = context.n_batch = context.n_ubatch = tokens + 8;
  context.n_threads = context.n_threads_batch = 1;
  context.type_k = context.type_v = GGML_TYPE_F32;
  context.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  loaded.context = llama_init_from_model(loaded.model, context);
  return loaded;
}

std::vector<float> llama_logits(llama_context* context, const std::vector<llama_token>& ids, std::size_t vocabulary) {
  llama_batch batch = llama_batch_init(static_cast<int>(ids.size()), 0, 1);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    batch.token[i] = ids[i];
    batch.pos[i] = static_cast<llama_pos>(i);
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  batch.n_tokens = static_cast<int>(ids.size());
  std::vector<float> out;
  if (llama_decode(context, batch) == 0) {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const float* row = llama_get_logits_ith(context, static_cast<int>(i));
      out.insert(out.end(), row, row + vocabulary);
    }
  }
  llama_batch_free(batch);
  return out;
}

std::vector<float> our_logits(const char* file, const std::vector<llama_token>& ids) {
  quant::Registry registry;
  quant::register_builtin_formats(registry);
  const auto checkpoint = quant::open_checkpoint(file);
  const quant::LogicalTensors tensors(*checkpoint, registry);
  const quant::ModelWeights weights(tensors);
  quant::LanguageModelOptions options;
  options.threads = 1;
  quant::LanguageModel model(weights, options);
  const std::vector<std::vector<std::int32_t>> sequences{{ids.begin(), ids.end()}};
  model.run(sequences, {});
  std::vector<std::uint64_t> rows(ids.size());
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = i;
  std::vector<float> out(rows.size() * model.vocabulary());
  model.logits(rows, out);
  return out;
}

struct Difference {
  double largest = 0, mean_kl = 0, same_top = 0, spread = 0;
};

Difference compare(const std::vector<float>& a, const std::vector<float>& b, std::size_t vocabulary) {
  Difference all;
  const std::size_t rows = a.size() / vocabulary;
  double squares = 0;
  for (std::size_t r = 0; r < rows; ++r) {
    const float* x = a.data() + r * vocabulary;
    const float* y = b.data() + r * vocabulary;
    double sum_x = 0, sum_y = 0;
    const float top_x = *std::max_element(x, x + vocabulary), top_y = *std::max_element(y, y + vocabulary);
    for (std::size_t v = 0; v < vocabulary; ++v) {
      sum_x += std::exp(static_cast<double>(x[v] - top_x));
      sum_y += std::exp(static_cast<double>(y[v] - top_y));
      all.largest = std::max(all.largest, static_cast<double>(std::fabs(x[v] - y[v])));
      squares += static_cast<double>(y[v]) * static_cast<double>(y[v]);
    }
    for (std::size_t v = 0; v < vocabulary; ++v) {
      const double lx = static_cast<double>(x[v] - top_x) - std::log(sum_x);
      const double ly = static_cast<double>(y[v] - top_y) - std::log(sum_y);
      all.mean_kl += std::exp(ly) * (ly - lx) / static_cast<double>(rows);
    }
    const bool same = std::max_element(x, x + vocabulary) - x == std::max_element(y, y + vocabulary) - y;
    all.same_top += same ? 1.0 / static_cast<double>(rows) : 0;
  }
  all.spread = std::sqrt(squares / static_cast<double>(b.size()));
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: compare_logits FILE.gguf TEXT_FILE [TOKENIZER_DIR]\n");
    return 2;
  }
  std::stringstream text;
  text << std::ifstream(argv[2]).rdbuf();
  const std::string part = text.str().substr(0, 1200);
  const Loaded loaded = load(argv[1], 512);
  if (loaded.context == nullptr) {
    std::printf("%s: llama.cpp does not load it\n", argv[1]);
    return 1;
  }
  const llama_vocab* vocab = llama_model_get_vocab(loaded.model);
  std::vector<llama_token> ids = llama_tokens(vocab, part);
  const char* tokens = "not compared";
  if (argc > 3) {
    const auto own = quant::Tokenizer::open(argv[3]).encode(part, true);
    tokens = std::equal(own.begin(), own.end(), ids.begin(), ids.end()) ? "equal" : "DIFFERENT";
    ids.assign(own.begin(), own.end());
  }
  if (ids.empty()) {
    for (int i = 0; i < 200; ++i) ids.push_back(3 + i * 7 % 97);
  }
  ids.resize(std::min<std::size_t>(ids.size(), 256));
  const auto vocabulary = static_cast<std::size_t>(llama_vocab_n_tokens(vocab));
  const auto theirs = llama_logits(loaded.context, ids, vocabulary);
  const auto ours = our_logits(argv[1], ids);
  if (theirs.size() != ours.size()) {
    std::printf("%s: %zu logits in llama.cpp, %zu here\n", argv[1], theirs.size(), ours.size());
    return 1;
  }
  const Difference d = compare(theirs, ours, vocabulary);
  std::printf("%s: %zu tokens (%s), largest difference %.3g of logits of size %.3g, mean KL %.3g, same top %.1f %%\n",
              argv[1], ids.size(), tokens, d.largest, d.spread, d.mean_kl, 100 * d.same_top);
  return d.same_top > 0.9 ? 0 : 1;
}
