#include "kv_cache_option.h"
#include "quant/error.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::cli;
using Scale = KvQuantizer::Scale;

TEST_CASE("a cache of keys and values is described in one word") {
  const auto int4 = parse_kv_cache("int4");
  REQUIRE(int4);
  CHECK(int4->bits == 4);
  CHECK(int4->type == NumberType::integer);
  CHECK_FALSE(int4->symmetric);
  CHECK(int4->keys == Scale::channel);
  CHECK(int4->values == Scale::token);
  CHECK(int4->group == 32);
  CHECK(int4->residual == 0);
  CHECK(parse_kv_cache("int2")->bits == 2);
  CHECK(parse_kv_cache("int8")->bits == 8);
  const auto fp8 = parse_kv_cache("fp8");
  CHECK(fp8->type == NumberType::floating);
  CHECK(fp8->bits == 8);
  CHECK(fp8->keys == Scale::tensor);
  CHECK_FALSE(parse_kv_cache("none"));
}

TEST_CASE("its details follow after commas") {
  const auto kv = parse_kv_cache("int2,group=64,residual=128,keys=token,values=channel");
  REQUIRE(kv);
  CHECK(kv->group == 64);
  CHECK(kv->residual == 128);
  CHECK(kv->keys == Scale::token);
  CHECK(kv->values == Scale::channel);
  CHECK(describe_kv_cache(*kv) == "int2, keys per token, values per channel, groups of 64, newest 128 float");
}

TEST_CASE("a cache that means nothing is refused") {
  for (const std::string text : {"int5x", "", "int16", "int4,group", "int4,group=", "int4,group=x", "int4,group=-1",
                                 "int4,keys=row", "int4,size=3", "int4,residual=99999999", "none,group=3"}) {
    INFO(text);
    try {
      parse_kv_cache(text);
      FAIL("no error");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::usage);
      CHECK(std::string(error.what()).find("--kv-cache " + text) == 0);
    }
  }
}
