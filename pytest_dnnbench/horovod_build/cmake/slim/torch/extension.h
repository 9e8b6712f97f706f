// Found before torch's header of this name, which declares the whole C++ front end (modules, optimisers, data
// loaders, serialisation). Horovod's binding needs tensors, their factories and their conversion from Python.
#pragma once
#include <torch/csrc/autograd/generated/variable_factories.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/types.h>
