# Read by CMake before any project starts, because CMAKE_TOOLCHAIN_FILE in the environment names it: the one place
# where a build can be told what it does not ask for, without a line of its source being touched.

set(CMAKE_PROJECT_INCLUDE "${CMAKE_CURRENT_LIST_DIR}/project.cmake")

# The bundled gloo asks for a policy older than CMake 4 knows.
set(CMAKE_POLICY_VERSION_MINIMUM 3.5)

# Horovod takes any CUDA compiler that it finds, also for a torch that has no use for it.
if("$ENV{HOROVOD_GPU_OPERATIONS}" STREQUAL "")
    set(CMAKE_CUDA_COMPILER "CMAKE_CUDA_COMPILER-NOTFOUND")
    set(CMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit ON)
endif()
