# Installs BUILD_DIR into an empty prefix, moves the prefix, builds CONSUMER_DIR against it and runs the program.
file(REMOVE_RECURSE ${WORK_DIR})
file(MAKE_DIRECTORY ${WORK_DIR})
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK_DIR}/first
                OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
# A package must not remember where it was first installed.
file(RENAME ${WORK_DIR}/first ${WORK_DIR}/prefix)

file(GLOB_RECURSE config ${WORK_DIR}/prefix/*/cmake/quant/*.cmake)
if(NOT config)
  message(FATAL_ERROR "no CMake package was installed")
endif()
foreach(file IN LISTS config)
  file(READ ${file} text)
  foreach(forbidden ${BUILD_DIR} "quant_options" "nlohmann" "XXHASH")
    string(FIND "${text}" ${forbidden} place)
    if(NOT place EQUAL -1)
      message(FATAL_ERROR "${file} mentions ${forbidden}, which no consumer has")
    endif()
  endforeach()
endforeach()

set(flags "")
if(SANITIZE)
  set(flags -fsanitize=${SANITIZE})
endif()
execute_process(COMMAND ${CMAKE_COMMAND} -G ${GENERATOR} -S ${CONSUMER_DIR} -B ${WORK_DIR}/build
                -D CMAKE_PREFIX_PATH=${WORK_DIR}/prefix -D CMAKE_CXX_COMPILER=${CXX_COMPILER}
                -D CMAKE_CXX_FLAGS=${flags} -D CMAKE_BUILD_TYPE=Release
                COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} --build ${WORK_DIR}/build COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${WORK_DIR}/build/consumer
                ${WORK_DIR}/prefix/share/quant/examples/tiny-llama-novels
                ${WORK_DIR}/prefix/share/quant/recipes/w4a16.yaml
                COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} -E env --unset=QUANT_RECIPES ${WORK_DIR}/prefix/bin/quant recipes --json
                OUTPUT_VARIABLE listing COMMAND_ERROR_IS_FATAL ANY)
file(REAL_PATH ${WORK_DIR}/prefix/share/quant/recipes/w4a16.yaml recipe)
string(FIND "${listing}" ${recipe} place)
if(place EQUAL -1)
  message(FATAL_ERROR "the installed quant does not list its own ready recipe ${recipe}:\n${listing}")
endif()
