/* libcuda for GPUs that are not there: what torch and Triton ask of the driver itself.

   The types are plain ones of the same size, so that cuda.h is not needed. */

static int launches;
int null_gpu_launches(void) { return launches; }

/* What is asked for, and the answer. */
#define ANSWER(name, type, answer) \
    int name(type *to) {           \
        *to = (type)(answer);      \
        return 0;                  \
    }
ANSWER(cuDriverGetVersion, int, 13000)
ANSWER(cuDeviceGetCount, int, 8)
ANSWER(cuCtxGetDevice, int, 0)
ANSWER(cuCtxGetCurrent, void *, 16)
ANSWER(cuDevicePrimaryCtxRetain, void *, 16)
ANSWER(cuModuleLoad, void *, 32)
ANSWER(cuModuleLoadData, void *, 32)
ANSWER(cuModuleLoadDataEx, void *, 32)
ANSWER(cuModuleGetFunction, void *, 48)

int cuDeviceGet(int *device, int number) {
    *device = number;
    return 0;
}
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    *flags = 0;
    *active = device == 0;
    return 0;
}
int cuGetErrorString(int error, const char **text) {
    *text = "an error of a GPU that is not there";
    return 0;
}
int cuFuncGetAttribute(int *value, int name, void *function) {
    *value = name == 0 ? 1024 : 0; /* threads of a block; no registers, no spills */
    return 0;
}
int cuDeviceGetAttribute(int *value, int name, int device) {
    switch (name) {
    case 8: *value = 48 << 10; break;   /* shared memory of a block */
    case 10: *value = 32; break;        /* warp */
    case 12: *value = 65536; break;     /* registers of a block */
    case 13: *value = 1700000; break;   /* clock, kHz */
    case 16: *value = 132; break;       /* multiprocessors */
    case 36: *value = 2600000; break;   /* memory clock, kHz */
    case 37: *value = 5120; break;      /* memory bus */
    case 75: *value = 9; break;         /* compute capability */
    case 76: *value = 0; break;
    case 97: *value = 227 << 10; break; /* shared memory of a block, on demand */
    default: *value = 1;
    }
    return 0;
}

#define LAUNCH(name)                           \
    int name(void) {                           \
        __sync_fetch_and_add(&launches, 1);    \
        return 0;                              \
    }
LAUNCH(cuLaunchKernel)
LAUNCH(cuLaunchKernelEx)
LAUNCH(cuLaunchCooperativeKernel)

#define NOTHING(name) \
    int name(void) { return 0; }
NOTHING(cuInit)
NOTHING(cuCtxGetLimit)
NOTHING(cuCtxSetCurrent)
NOTHING(cuCtxSetLimit)
NOTHING(cuFuncGetParamInfo)
NOTHING(cuFuncSetAttribute)
NOTHING(cuFuncSetCacheConfig)
NOTHING(cuGetErrorName)
NOTHING(cuLinkAddData_v2)
NOTHING(cuLinkComplete)
NOTHING(cuLinkCreate_v2)
NOTHING(cuMemcpyDtoH_v2)
NOTHING(cuModuleUnload)
NOTHING(cuOccupancyMaxActiveBlocksPerMultiprocessor)
NOTHING(cuOccupancyMaxActiveClusters)
NOTHING(cuPointerGetAttribute)
NOTHING(cuPointerGetAttributes)
NOTHING(cuStreamSynchronize)
NOTHING(cuTensorMapEncodeIm2col)
NOTHING(cuTensorMapEncodeTiled)
