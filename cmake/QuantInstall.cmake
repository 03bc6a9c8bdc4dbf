# What `cmake --install` copies, the CMake package that it leaves behind, and the Debian package.
include(CMakePackageConfigHelpers)

set(quant_cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/quant)
install(TARGETS quant_core quant_algorithms quant_formats quant_recipes EXPORT quantTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT quantTargets NAMESPACE quant:: DESTINATION ${quant_cmake_dir})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/quantConfig.cmake.in ${PROJECT_BINARY_DIR}/quantConfig.cmake
  INSTALL_DESTINATION ${quant_cmake_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/quantConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/quantConfig.cmake ${PROJECT_BINARY_DIR}/quantConfigVersion.cmake
              ${PROJECT_SOURCE_DIR}/cmake/FindOneDNN.cmake
        DESTINATION ${quant_cmake_dir})

foreach(library libquant algorithms formats)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${library}/include/quant DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
          FILES_MATCHING PATTERN "*.h")
endforeach()

install(TARGETS quant RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
# The executable looks for them in ../share/quant/recipes.
install(DIRECTORY ${PROJECT_SOURCE_DIR}/recipes/ DESTINATION ${CMAKE_INSTALL_DATADIR}/quant/recipes
        FILES_MATCHING PATTERN "*.yaml" PATTERN "*.md" PATTERN "src" EXCLUDE PATTERN "tests" EXCLUDE)
# The model without its calibration and evaluation texts, which no installed command reads.
install(DIRECTORY ${PROJECT_SOURCE_DIR}/examples/tiny-llama-novels DESTINATION ${CMAKE_INSTALL_DATADIR}/quant/examples
        PATTERN "*.txt" EXCLUDE)
install(FILES README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
# In the form that Debian's tools read; the text is that of LICENSE.
file(STRINGS ${PROJECT_SOURCE_DIR}/LICENSE quant_lines)
set(quant_licence "")
foreach(line IN LISTS quant_lines)
  if(line STREQUAL "" AND quant_licence)
    set(line ".")
  endif()
  if(line MATCHES "^Permission" OR quant_licence)
    string(APPEND quant_licence " ${line}\n")
  endif()
endforeach()
configure_file(${PROJECT_SOURCE_DIR}/cmake/copyright.in ${PROJECT_BINARY_DIR}/copyright @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/copyright DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR}/docs
        FILES_MATCHING PATTERN "*.md" PATTERN "*.schema.json")

# Changelogs as Debian's policy wants them: compressed, one of the program and one of its packaging.
find_program(QUANT_GZIP gzip)
if(QUANT_GZIP)
  set(quant_changelogs ${PROJECT_BINARY_DIR}/changelogs)
  # SOURCE_DATE_EPOCH fixes it, and with it the package's bytes.
  string(TIMESTAMP quant_date "%a, %d %b %Y %H:%M:%S +0000" UTC)
  configure_file(${PROJECT_SOURCE_DIR}/cmake/changelog.Debian.in ${quant_changelogs}/changelog.Debian @ONLY)
  configure_file(${PROJECT_SOURCE_DIR}/CHANGELOG.md ${quant_changelogs}/changelog COPYONLY)
  execute_process(COMMAND ${QUANT_GZIP} -9nfk ${quant_changelogs}/changelog.Debian ${quant_changelogs}/changelog
                  COMMAND_ERROR_IS_FATAL ANY)
  install(FILES ${quant_changelogs}/changelog.Debian.gz ${quant_changelogs}/changelog.gz
          DESTINATION ${CMAKE_INSTALL_DOCDIR})
else()
  install(FILES CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME changelog)
endif()

set(CPACK_PACKAGE_NAME quant)
set(CPACK_PACKAGE_VENDOR "the libquant authors")
set(CPACK_PACKAGE_CONTACT "the libquant authors <libquant@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "compress large language model checkpoints natively")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
"Quantizes and prunes checkpoints of language models on the processor, without
Python: by rounding, GPTQ, AWQ, SmoothQuant, k-means, HQQ, SparseGPT and more,
into the layouts of compressed-tensors, GPTQ, AWQ, bitsandbytes and GGUF.
.
Measures what that costs, layer by layer and as perplexity, and turns one
layout into another without a second loss. With the static libraries, headers
and CMake package for C++ programs.")
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_GENERATOR DEB)
set(CPACK_STRIP_FILES ON)
set(CPACK_THREADS 0)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
# Only programs that link the static libraries need these.
set(CPACK_DEBIAN_PACKAGE_SUGGESTS
    "cmake, g++, libdnnl-dev, libfmt-dev, libhdf5-dev, libpcre2-dev, libutf8proc-dev, libyaml-cpp-dev, pkg-config")
include(CPack)
