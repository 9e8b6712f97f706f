# Stands in for Horovod's module of the same name and sets the same variables. That one starts Python eight times,
# and each imports torch; this one asks once.

set(_question "
import os, sys, sysconfig
answer, sys.stdout = sys.stdout, sys.stderr
import torch
from torch.utils import cpp_extension
gpu = os.environ.get('HOROVOD_GPU_OPERATIONS', '') != ''
cuda = gpu and torch.version.cuda is not None and cpp_extension.CUDA_HOME is not None
kind = cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension
extension = kind('', [])
includes = [*extension.include_dirs, sysconfig.get_paths()['include']]
for line in (torch.__version__, str(cuda).upper(), str(torch.compiled_with_cxx11_abi()).upper(),
             ';'.join(includes), ';'.join(extension.library_dirs), ';'.join(extension.libraries)):
    print(line, file=answer)
")
execute_process(COMMAND "${PY_EXE}" -c "${_question}" OUTPUT_VARIABLE _answer RESULT_VARIABLE _status)
if(NOT _status EQUAL 0)
    message(FATAL_ERROR "${PY_EXE} could not describe the installed torch: see the lines above")
endif()
string(REGEX REPLACE "([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n" "\\1" Pytorch_VERSION "${_answer}")
set(Pytorch_CUDA "${CMAKE_MATCH_2}")
set(Pytorch_CXX11 "${CMAKE_MATCH_3}")
set(Pytorch_INCLUDE_DIRS "${CMAKE_CURRENT_LIST_DIR}/slim;${CMAKE_MATCH_4}")
set(Pytorch_LIBRARY_DIRS "${CMAKE_MATCH_5}")
set(_libraries "${CMAKE_MATCH_6}")
set(Pytorch_ROCM FALSE)

set(Pytorch_LIBRARIES "")
foreach(_library IN LISTS _libraries)
    find_library(FOUND_LIB_${_library} NAMES ${_library} HINTS ${Pytorch_LIBRARY_DIRS} REQUIRED)
    list(APPEND Pytorch_LIBRARIES "${FOUND_LIB_${_library}}")
endforeach()

if(Pytorch_CXX11)
    set(Pytorch_COMPILE_FLAGS "-D_GLIBCXX_USE_CXX11_ABI=1")
else()
    set(Pytorch_COMPILE_FLAGS "-D_GLIBCXX_USE_CXX11_ABI=0")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Pytorch REQUIRED_VARS Pytorch_LIBRARIES VERSION_VAR Pytorch_VERSION)
