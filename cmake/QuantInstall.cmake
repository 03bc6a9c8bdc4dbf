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
install(FILES README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR}/docs FILES_MATCHING PATTERN "*.md")

set(CPACK_PACKAGE_NAME quant)
set(CPACK_PACKAGE_VENDOR "the libquant authors")
set(CPACK_PACKAGE_CONTACT "the libquant authors <libquant@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY ${PROJECT_DESCRIPTION})
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_GENERATOR DEB)
set(CPACK_STRIP_FILES ON)
set(CPACK_THREADS 0)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# Only programs that link the static libraries need these.
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "libdnnl-dev, libfmt-dev, libhdf5-dev, libpcre2-dev, libyaml-cpp-dev, pkg-config")
include(CPack)
