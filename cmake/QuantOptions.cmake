# Compiler settings shared by every target of the project.
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
# No -march=native: the kernels are compiled for several instruction sets and chosen at run time.
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG")
include(GNUInstallDirs)

if(PROJECT_IS_TOP_LEVEL AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(QUANT_CCACHE ccache)
  if(QUANT_CCACHE)
    set(CMAKE_CXX_COMPILER_LAUNCHER ${QUANT_CCACHE})
  endif()
endif()

add_library(quant_options INTERFACE)
# Results must not depend on whether the compiler fuses a multiply and an add.
target_compile_options(quant_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -ffp-contract=off)
# GCC 12 reports overlapping copies and uninitialized parts inside std::string that cannot be (GCC bugs 105651, 105562).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(quant_options INTERFACE -Wno-restrict -Wno-maybe-uninitialized)
endif()
if(QUANT_WERROR)
  target_compile_options(quant_options INTERFACE -Werror)
endif()

if(QUANT_SANITIZE)
  set(quant_sanitize_flags -fsanitize=${QUANT_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_compile_options(${quant_sanitize_flags})
  add_link_options(${quant_sanitize_flags})
  # Containers then see reads of erased or reserved elements, which lie in valid memory.
  add_compile_definitions(_GLIBCXX_ASSERTIONS)
endif()
if(QUANT_BUILD_FUZZERS)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "QUANT_BUILD_FUZZERS needs clang: use the preset 'fuzz' or set CMAKE_CXX_COMPILER=clang++")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
