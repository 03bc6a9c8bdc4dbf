# Makes the Debian package of BUILD_DIR and checks what is in it.
file(REMOVE_RECURSE ${WORK_DIR})
file(MAKE_DIRECTORY ${WORK_DIR})
execute_process(COMMAND ${CMAKE_CPACK_COMMAND} -G DEB -B ${WORK_DIR} --config ${BUILD_DIR}/CPackConfig.cmake
                OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
file(GLOB package ${WORK_DIR}/*.deb)
list(LENGTH package count)
if(NOT count EQUAL 1)
  message(FATAL_ERROR "cpack made ${count} packages: ${package}")
endif()

function(require text pattern)
  if(NOT "${text}" MATCHES "${pattern}")
    message(FATAL_ERROR "${package} lacks '${pattern}':\n${text}")
  endif()
endfunction()

execute_process(COMMAND ${DPKG_DEB} --field ${package} OUTPUT_VARIABLE fields COMMAND_ERROR_IS_FATAL ANY)
require("${fields}" "Package: quant\n")
require("${fields}" "Suggests: [^\n]*libdnnl-dev")
require("${fields}" "Version: ${VERSION}-1\n")
foreach(library libc6 libgomp1 libdnnl2 libhdf5 libpcre2-8 libyaml-cpp)
  require("${fields}" "Depends: [^\n]*${library}")
endforeach()

execute_process(COMMAND ${DPKG_DEB} --extract ${package} ${WORK_DIR}/root COMMAND_ERROR_IS_FATAL ANY)
foreach(path bin/quant include/quant/rtn.h include/quant/open.h include/quant/tensor.h lib/libquant_core.a
        lib/cmake/quant/quantConfig.cmake share/quant/recipes/w4a16.yaml
        share/quant/examples/tiny-llama-novels/model.safetensors share/doc/quant/copyright
        share/doc/quant/changelog.gz share/doc/quant/changelog.Debian.gz share/doc/quant/docs/guide.md
        share/doc/quant/docs/schemas/recipe.schema.json share/man/man1/quant.1.gz share/man/man1/quant-run.1.gz)
  if(NOT EXISTS ${WORK_DIR}/root/usr/${path})
    message(FATAL_ERROR "${package} lacks /usr/${path}")
  endif()
endforeach()
execute_process(COMMAND ${WORK_DIR}/root/usr/bin/quant recipes OUTPUT_VARIABLE listing COMMAND_ERROR_IS_FATAL ANY)
require("${listing}" "w4a16")
