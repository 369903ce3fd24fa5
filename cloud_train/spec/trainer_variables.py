"""Which environment variables a job may set for a built-in trainer.

A job may come from someone who is not trusted, and many variables cause code to run: PYTHONPATH and LD_PRELOAD, but also
CUDA_INJECTION64_PATH, NCCL_NET_PLUGIN, OMP_TOOL_LIBRARIES and CXX. So only variables that are known to tune a library and do nothing else
are accepted. The user's own environment is not restricted, and neither is a script job, which runs the job's own code anyway. Standard
library only: the worker reads it too.
"""

TRAINER_VARIABLES = frozenset(
    {
        *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "OMP_PLACES", "OMP_SCHEDULE", "OMP_DYNAMIC", "GOMP_CPU_AFFINITY"),
        *("KMP_AFFINITY", "KMP_BLOCKTIME", "MKL_NUM_THREADS", "MKL_DYNAMIC", "OPENBLAS_NUM_THREADS", "ONEDNN_MAX_CPU_ISA"),
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
        *("NCCL_DEBUG", "NCCL_SOCKET_IFNAME", "NCCL_IB_DISABLE", "NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE", "GLOO_SOCKET_IFNAME"),
        *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "TORCH_CPP_LOG_LEVEL", "TORCH_DISTRIBUTED_DEBUG", "TORCH_LOGS"),
        *("LANG", "LC_ALL", "TZ", "NO_COLOR"),
    }
)
