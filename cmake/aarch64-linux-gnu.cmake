# Cross-compiles to 64-bit ARM with Debian's g++-aarch64-linux-gnu. Programs link only where the dependencies are
# installed for arm64 (`dpkg --add-architecture arm64`). Without them the headers of an x86-64 host serve, which are the
# same, so that the static libraries still compile.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
foreach(package fmt spdlog yaml-cpp)
  if(NOT EXISTS /usr/lib/aarch64-linux-gnu/cmake/${package} AND EXISTS /usr/lib/x86_64-linux-gnu/cmake/${package})
    set(${package}_DIR /usr/lib/x86_64-linux-gnu/cmake/${package})
  endif()
endforeach()
if(NOT EXISTS /usr/lib/aarch64-linux-gnu/libdnnl.so AND EXISTS /usr/lib/x86_64-linux-gnu/libdnnl.so)
  set(OneDNN_LIBRARY /usr/lib/x86_64-linux-gnu/libdnnl.so)
endif()
