# Included by every project() of the build: Horovod's own, and that of the gloo it carries.

# Horovod asks for C++14; the headers of a current torch need C++20.
set(CMAKE_CXX14_STANDARD_COMPILE_OPTION "-std=c++20")
set(CMAKE_CXX14_EXTENSION_COMPILE_OPTION "-std=gnu++20")
set(CMAKE_CUDA11_STANDARD_COMPILE_OPTION "-std=c++17")
set(CMAKE_CUDA14_STANDARD_COMPILE_OPTION "-std=c++20")

# Its build type is RelWithDebInfo: the same optimisation (Horovod raises -O2 to -O3 itself) without the debug
# information, which takes time to write and makes the wheel twenty times as large.
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -DNDEBUG")
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -DNDEBUG")
set(CMAKE_CUDA_FLAGS_RELWITHDEBINFO "-O2 -DNDEBUG")

if(PROJECT_NAME STREQUAL "horovod")
    # Our FindPytorch.cmake is found before Horovod's.
    list(PREPEND CMAKE_MODULE_PATH "${CMAKE_CURRENT_LIST_DIR}")
    # The NCCL that comes as a Python package has no libnccl.so, only the name with its version.
    list(APPEND CMAKE_FIND_LIBRARY_SUFFIXES ".so.2")
    # A deferred call sees the variables of its own time: the folder of this file must be remembered.
    set(DNNBENCH_CMAKE_DIR "${CMAKE_CURRENT_LIST_DIR}")
    cmake_language(DEFER CALL include "${DNNBENCH_CMAKE_DIR}/unity.cmake")
endif()
