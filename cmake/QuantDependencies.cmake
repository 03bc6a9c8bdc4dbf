# Third-party libraries, all from Debian's packages. None of them shows in the public headers.
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(fmt REQUIRED)
find_package(nlohmann_json 3.9 REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(CLI11 REQUIRED)
find_package(spdlog REQUIRED)
find_package(OneDNN 2.6 REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
# CMake's own HDF5 module adds the libraries that HDF5 itself was built with (curl, crypto, ...) to every program.
pkg_check_modules(LIBHDF5 REQUIRED IMPORTED_TARGET hdf5)
