# Called when all directories are known: compiles sources that share headers together, in groups of about equal
# time, the longest (torch's headers) first. Grouped by hand, since some sources name different things alike:
# gloo's allreduce.cc and reduce.cc each have a ReductionFunction of their own, and stay alone.

set(_gloo "${CMAKE_SOURCE_DIR}/third_party/gloo/gloo")
set(_common "${CMAKE_SOURCE_DIR}/horovod/common")
set(_torch "${CMAKE_SOURCE_DIR}/horovod/torch")

function(compile_together group directory)
    set_source_files_properties(${ARGN} DIRECTORY "${directory}" PROPERTIES UNITY_GROUP "${group}")
endfunction()

compile_together(a_torch "${_torch}"
    "${_torch}/adapter_v2.cc" "${_torch}/cuda_util.cc" "${_torch}/handle_manager.cc" "${_torch}/mpi_ops_v2.cc"
    "${_torch}/ready_event.cc")
compile_together(b_core "${_torch}"
    "${_common}/common.cc" "${_common}/controller.cc" "${_common}/fusion_buffer_manager.cc"
    "${_common}/group_table.cc" "${_common}/half.cc" "${_common}/logging.cc" "${_common}/operations.cc"
    "${_common}/process_set.cc" "${_common}/response_cache.cc" "${_common}/stall_inspector.cc"
    "${_common}/tensor_queue.cc" "${_common}/thread_pool.cc" "${_common}/timeline.cc")
compile_together(c_gloo "${_torch}"
    "${_common}/gloo/gloo_context.cc" "${_common}/gloo/gloo_controller.cc" "${_common}/gloo/http_store.cc"
    "${_common}/gloo/memory_store.cc" "${_common}/message.cc" "${_common}/ops/collective_operations.cc"
    "${_common}/ops/gloo_operations.cc" "${_common}/ops/operation_manager.cc" "${_common}/utils/env_parser.cc")
compile_together(d_tuning "${_torch}"
    "${_common}/optim/bayesian_optimization.cc" "${_common}/optim/gaussian_process.cc"
    "${_common}/parameter_manager.cc")

compile_together(tcp "${_gloo}"
    "${_gloo}/transport/tcp/address.cc" "${_gloo}/transport/tcp/buffer.cc" "${_gloo}/transport/tcp/context.cc"
    "${_gloo}/transport/tcp/device.cc" "${_gloo}/transport/tcp/error.cc" "${_gloo}/transport/tcp/loop.cc"
    "${_gloo}/transport/tcp/pair.cc" "${_gloo}/transport/tcp/socket.cc"
    "${_gloo}/transport/tcp/unbound_buffer.cc")
compile_together(rendezvous "${_gloo}"
    "${_gloo}/common/linux.cc" "${_gloo}/common/logging.cc" "${_gloo}/rendezvous/context.cc"
    "${_gloo}/rendezvous/file_store.cc" "${_gloo}/rendezvous/hash_store.cc" "${_gloo}/rendezvous/prefix_store.cc"
    "${_gloo}/rendezvous/store.cc" "${_gloo}/transport/address.cc" "${_gloo}/transport/buffer.cc"
    "${_gloo}/transport/context.cc" "${_gloo}/transport/device.cc" "${_gloo}/transport/pair.cc"
    "${_gloo}/transport/unbound_buffer.cc")
compile_together(collectives "${_gloo}"
    "${_gloo}/algorithm.cc" "${_gloo}/allgather.cc" "${_gloo}/allgatherv.cc" "${_gloo}/allreduce_local.cc"
    "${_gloo}/alltoall.cc" "${_gloo}/alltoallv.cc" "${_gloo}/barrier.cc" "${_gloo}/broadcast.cc"
    "${_gloo}/context.cc" "${_gloo}/gather.cc" "${_gloo}/gatherv.cc" "${_gloo}/scatter.cc" "${_gloo}/types.cc")
set_target_properties(gloo PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)

set_target_properties(pytorch PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)

if(TARGET compatible_horovod_cuda_kernels)
    # The same kernels for a torch of the old C++ ABI, which no supported torch has.
    set_target_properties(compatible_horovod_cuda_kernels PROPERTIES EXCLUDE_FROM_ALL ON)
endif()
