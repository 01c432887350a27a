"""CUDA without a GPU: a CPU build of torch that believes it has `cuda:0`.

Tensors there hold real numbers, refuse to mix with those of the CPU as CUDA's do, and every wait and every copy is counted with the
line that caused it. It is switched on for a whole process and for those that it starts (`build.surroundings`), so tests run on it in
processes of their own (tests/simcuda). It cannot see kernels, speed, memory or NCCL.
"""
