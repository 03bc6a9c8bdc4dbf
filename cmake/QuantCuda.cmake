# CUDA kernels: QUANT_CUDA is ON, OFF, or AUTO, which means ON where nvcc is found. nvcc compiles the few CUDA sources by
# custom commands rather than as a language of the project, so that nothing that links the libraries needs nvcc.
# The runtime is linked statically and finds the driver when it first needs it; cuBLASLt is opened at run time
# (src/cuda/cublaslt.cpp). So programs and packages start everywhere, with or without a driver.
set(QUANT_CUDA AUTO CACHE STRING "CUDA kernels: ON, OFF, or AUTO (where nvcc is found; not with sanitizers)")
set_property(CACHE QUANT_CUDA PROPERTY STRINGS AUTO ON OFF)

set(quant_has_cuda OFF)
if(QUANT_CUDA STREQUAL "AUTO" AND (QUANT_SANITIZE OR CMAKE_CROSSCOMPILING))
  # Sanitizers see the kernels' bodies in the tests that run them on the processor.
elseif(QUANT_CUDA)
  find_program(QUANT_NVCC nvcc HINTS ENV CUDACXX PATHS $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
  if(QUANT_NVCC)
    get_filename_component(quant_nvcc_folder ${QUANT_NVCC} DIRECTORY)
    set(CUDAToolkit_ROOT ${quant_nvcc_folder}/..)
    find_package(CUDAToolkit QUIET)
    if(TARGET CUDA::cudart_static)
      set(quant_has_cuda ON)
    endif()
  endif()
  if(NOT quant_has_cuda AND NOT QUANT_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "QUANT_CUDA is ON, but nvcc or the static CUDA runtime was not found: set QUANT_NVCC")
  endif()
endif()
if(quant_has_cuda)
  message(STATUS "CUDA kernels: ${QUANT_NVCC} (${CUDAToolkit_VERSION})")
else()
  message(STATUS "CUDA kernels: none")
endif()

# Code for 8.0 and 9.0, and PTX that drivers compile for later devices.
set(quant_nvcc_flags -std=c++20 -O3 -gencode arch=compute_80,code=sm_80
  -gencode arch=compute_90,code=[sm_90,compute_90] -Xcompiler -fPIC,-Wall,-Wextra,-Wno-unknown-pragmas)
if(QUANT_WERROR)
  list(APPEND quant_nvcc_flags -Werror all-warnings)
endif()

# quant_cuda_sources(<target> <source>...): compiled with nvcc, with the target's src folder for includes.
function(quant_cuda_sources target)
  foreach(source IN LISTS ARGN)
    get_filename_component(name ${source} NAME_WE)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.cu.o)
    add_custom_command(OUTPUT ${object}
      COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} ${QUANT_NVCC} ${quant_nvcc_flags} -I${CMAKE_CURRENT_SOURCE_DIR}/src
              -MD -MF ${object}.d -c ${CMAKE_CURRENT_SOURCE_DIR}/${source} -o ${object}
      DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${source} DEPFILE ${object}.d
      COMMENT "Compiling ${source} with nvcc" VERBATIM)
    set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
    target_sources(${target} PRIVATE ${object})
  endforeach()
endfunction()
