# pangaea_flags: the warnings, hardening and sanitizers that all our C is built with.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)

add_library(pangaea_flags INTERFACE)
target_include_directories(pangaea_flags INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})
target_compile_definitions(pangaea_flags INTERFACE _GNU_SOURCE _FILE_OFFSET_BITS=64
  PANGAEA_VERSION="${PROJECT_VERSION}")
target_compile_options(pangaea_flags INTERFACE
  -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition
  -Wpointer-arith -Wwrite-strings -Wvla -Wformat=2 -Wundef -Wimplicit-fallthrough
  -Wno-unused-parameter -Wno-gnu-variable-sized-type-not-at-end -fno-strict-aliasing -fno-common -fstack-protector-strong
  -fmacro-prefix-map=${CMAKE_SOURCE_DIR}/=)
# A target with PANGAEA_LAZY binds what it calls when it calls it: what starts by the hundred pays for no
# more than it uses. Its parts also are fewer mappings.
target_link_options(pangaea_flags INTERFACE -Wl,-z,relro
  $<IF:$<BOOL:$<TARGET_PROPERTY:PANGAEA_LAZY>>,-Wl$<COMMA>-z$<COMMA>noseparate-code,-Wl$<COMMA>-z$<COMMA>now>)
target_link_libraries(pangaea_flags INTERFACE Threads::Threads)
if(PANGAEA_SANITIZE)
  target_compile_options(pangaea_flags INTERFACE -fsanitize=${PANGAEA_SANITIZE}
    -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(pangaea_flags INTERFACE -fsanitize=${PANGAEA_SANITIZE})
endif()

# The fuzzer steers by the coverage of all our code, not only of the target's own file.
if(PANGAEA_FUZZ)
  target_compile_options(pangaea_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

# NDEBUG would drop our asserts; they stay on in release.
foreach(c RELEASE RELWITHDEBINFO MINSIZEREL)
  string(REPLACE "-DNDEBUG" "" CMAKE_C_FLAGS_${c} "${CMAKE_C_FLAGS_${c}}")
endforeach()

# pangaea_library(NAME LINK lib...): a static library of all *.c in this folder (not below it).
function(pangaea_library name)
  cmake_parse_arguments(A "" "" "LINK;SOURCES" ${ARGN})
  if(NOT A_SOURCES)
    file(GLOB A_SOURCES CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.c)
  endif()
  add_library(${name} STATIC ${A_SOURCES})
  target_link_libraries(${name} PUBLIC pangaea_flags ${A_LINK})
endfunction()

# pangaea_pkg(VAR PACKAGE): an imported target PkgConfig::VAR.
macro(pangaea_pkg var)
  pkg_check_modules(${var} REQUIRED IMPORTED_TARGET ${ARGN})
endmacro()

# pangaea_targets(OUT DIR...): the targets of these folders and of those below.
function(pangaea_targets out)
  set(found "")
  foreach(dir ${ARGN})
    get_property(targets DIRECTORY ${dir} PROPERTY BUILDSYSTEM_TARGETS)
    list(APPEND found ${targets})
    get_property(below DIRECTORY ${dir} PROPERTY SUBDIRECTORIES)
    if(below)
      pangaea_targets(more ${below})
      list(APPEND found ${more})
    endif()
  endforeach()
  set(${out} "${found}" PARENT_SCOPE)
endfunction()
