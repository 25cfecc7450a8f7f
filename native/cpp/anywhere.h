/* Functions that the CPU's code and a GPU's share: nvcc compiles them for both. */
#ifndef SWITCHYARD_ANYWHERE_H
#define SWITCHYARD_ANYWHERE_H

#ifdef __CUDACC__
#define SY_ANYWHERE __host__ __device__
#else
#define SY_ANYWHERE
#endif

#endif
