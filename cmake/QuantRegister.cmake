# Plug-in points: one line per algorithm, layout or container. Registration is an explicit generated list, because
# self-registering objects vanish when they are linked from a static library.

# quant_add_plugin(<kind> <name> SOURCES ...): <kind> is algorithms or formats; the folder must define
# `void register_<name>(quant::Registry&)` in namespace quant.
function(quant_add_plugin kind name)
  cmake_parse_arguments(ARG "" "" "SOURCES" ${ARGN})
  target_sources(quant_${kind} PRIVATE ${ARG_SOURCES})
  set_property(TARGET quant_${kind} APPEND PROPERTY QUANT_PLUGINS ${name})
endfunction()

# Writes builtin_<kind>.cpp, which calls every register function, and adds it to the library.
function(quant_generate_builtin kind)
  get_target_property(names quant_${kind} QUANT_PLUGINS)
  set(declarations "")
  set(calls "")
  foreach(name IN LISTS names)
    string(APPEND declarations "void register_${name}(Registry& registry);\n")
    string(APPEND calls "  register_${name}(registry);\n")
  endforeach()
  set(file ${CMAKE_CURRENT_BINARY_DIR}/builtin_${kind}.cpp)
  file(CONFIGURE OUTPUT ${file} CONTENT
"#include \"quant/registry.h\"

namespace quant {
@declarations@
void register_builtin_@kind@(Registry& registry) {
@calls@}
}  // namespace quant
" @ONLY)
  target_sources(quant_${kind} PRIVATE ${file})
endfunction()
