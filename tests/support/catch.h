// Catch2 under one include, for the 2.13 of Debian 12 and for 3.x.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;  // NOLINT: 2.x has it in the same place
#else
#include <catch2/catch.hpp>
#endif
