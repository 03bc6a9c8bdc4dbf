#include <set>

#include "quant/cuda_linear.h"
#include "run_quant.h"
#include "support/catch.h"

using namespace quant::test;

TEST_CASE("bench prints every operation with its limit", "[bench]") {
  const auto json = json_of(run_quant({"bench", "--json", "--width", "64", "--rounds", "1", "--threads", "1"}));
  CHECK(json.at("threads") == 1);
  CHECK(json.at("width") == 64);
  std::set<std::string> names;
  for (const auto& result : json.at("results")) {
    INFO(result.dump());
    names.insert(result.at("name").get<std::string>());
    CHECK(result.at("gflops") > 0.0);
    CHECK(result.at("limit_gflops") > 0.0);
    CHECK(result.at("ratio") > 0.0);
    if (result.at("name") == "product" && result.at("shape") == "512 x 64 x 64") {
      CHECK(result.at("operations") == 2.0 * 512 * 64 * 64);
    }
  }
  for (const char* name :
       {"product", "gram", "inverse_factor", "gemm", "forward", "gptq", "gptq_refined", "sparsegpt"}) {
    INFO(name);
    CHECK(names.contains(name));
  }
  const Outcome text = run_quant({"bench", "--width", "32", "--rounds", "1"});
  CHECK(text.code == 0);
  CHECK(text.out.find("512 x 32 x 32") != std::string::npos);
}

TEST_CASE("bench refuses senseless widths and rounds", "[bench]") {
  CHECK(run_quant({"bench", "--width", "0"}).code == 2);
  CHECK(run_quant({"bench", "--width", "32769"}).code == 2);
  CHECK(run_quant({"bench", "--rounds", "0"}).code == 2);
}

TEST_CASE("bench kernels prints every codec beside memory and oneDNN", "[bench]") {
  const auto json = json_of(run_quant({"bench", "kernels", "--json", "--shape", "64x96", "--shape", "33x40", "--batch",
                                       "1", "--batch", "20", "--rounds", "1", "--threads", "1"}));
  CHECK(json.at("threads") == 1);
  CHECK(json.at("isa").is_string());
  std::set<std::string> codecs;
  for (const auto& result : json.at("results")) {
    INFO(result.dump());
    codecs.insert(result.at("codec").get<std::string>());
    CHECK(result.at("bytes") > 0);
    for (const char* key :
         {"seconds", "gb_per_s", "read_gb_per_s", "read_ratio", "gflops", "product_gflops", "product_ratio"}) {
      CHECK(result.at(key) > 0.0);
    }
    CHECK((result.at("inputs") != "bf16" || result.at("batch") == 20));
  }
  for (const char* codec :
       {"int8 channel", "w8a8", "int4 g128", "nf4 g64", "kmeans4 channel", "fp8 channel", "nvfp4"}) {
    INFO(codec);
    CHECK(codecs.contains(codec));
  }
  const Outcome text =
      run_quant({"bench", "kernels", "--shape", "32x32", "--batch", "1", "--codec", "mxfp4", "--rounds", "1"});
  CHECK(text.code == 0);
  CHECK(text.out.find("of reading") != std::string::npos);
}

TEST_CASE("bench kernels refuses what is no shape or codec", "[bench]") {
  for (const char* shape : {"64", "64x", "x64", "64x64x64", "0x64", "64*64"}) {
    INFO(shape);
    CHECK(run_quant({"bench", "kernels", "--shape", shape, "--batch", "1", "--rounds", "1"}).code == 2);
  }
  CHECK(run_quant({"bench", "kernels", "--codec", "int99"}).code == 2);
  CHECK(run_quant({"bench", "kernels", "--batch", "0"}).code == 2);
  CHECK(run_quant({"bench", "kernels", "--device", "tpu"}).code == 2);
}

TEST_CASE("bench kernels measures a device, or says that there is none", "[bench]") {
  const std::vector<std::string> arguments{"bench", "kernels", "--device", "cuda",     "--shape", "256x384", "--batch",
                                           "1",     "--batch", "20",       "--rounds", "1",       "--json"};
  const Outcome outcome = run_quant(arguments);
  if (quant::cuda_devices().empty()) {
    CHECK(outcome.code != 0);
    CHECK((outcome.out + outcome.err).find(quant::has_cuda_kernels() ? "no CUDA device" : "no CUDA kernels") !=
          std::string::npos);
    return;
  }
  const auto json = json_of(outcome);
  CHECK(json.at("device").is_string());
  for (const auto& result : json.at("results")) {
    INFO(result.dump());
    for (const char* key : {"seconds", "gb_per_s", "copy_gb_per_s", "copy_ratio", "gflops"}) {
      CHECK(result.at(key) > 0.0);
    }
  }
}
