/* libcudart for GPUs that are not there, to be preloaded.

   Device memory is the host's, of which the system gives no page before it is written.
   Kernels do nothing; copies of up to COPIED bytes are made, at once. Whatever lets the
   host wait for the device is told to a listener, in the thread that waits. What is not
   here, such as the registration of kernels, is the real library's. */
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define GPUS 8
#define COPIED (1 << 20)
#define PAGE 4096
static const size_t memory = 80ul << 30;

/* ---- what is counted */

typedef void listener_t(const char *);
static listener_t *listener;
static __thread int staged; /* a pageable copy has just waited already */

void null_gpu_listen(listener_t *to) { listener = to; }

static void waits(const char *why) {
    listener_t *to = listener;
    if (to) to(why);
}

/* A function that does so, and has no errors. */
#define DO(signature, ...)  \
    cudaError_t signature { \
        __VA_ARGS__;        \
        return cudaSuccess; \
    }

static cudaError_t queued(void) {
    staged = 0;
    return cudaSuccess;
}

/* ---- memory */

struct range { char *start; size_t size; enum cudaMemoryType type; };
static struct range ranges[1 << 16];
static int used_ranges;
static size_t used;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void add(void *start, size_t size, enum cudaMemoryType type) {
    pthread_mutex_lock(&lock);
    int free = 0;
    while (free < used_ranges && ranges[free].start) free++;
    if (free == sizeof ranges / sizeof *ranges) abort();
    if (free == used_ranges) used_ranges++;
    ranges[free] = (struct range){start, size, type};
    if (type == cudaMemoryTypeDevice) used += size;
    pthread_mutex_unlock(&lock);
}

static size_t drop(void *start) {
    size_t size = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < used_ranges; i++)
        if (ranges[i].start == start) {
            size = ranges[i].size;
            if (ranges[i].type == cudaMemoryTypeDevice) used -= size;
            ranges[i] = (struct range){0};
        }
    pthread_mutex_unlock(&lock);
    return size;
}

static enum cudaMemoryType type_of(const void *pointer) {
    enum cudaMemoryType type = cudaMemoryTypeUnregistered;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < used_ranges; i++)
        if ((size_t)((char *)pointer - ranges[i].start) < ranges[i].size)
            type = ranges[i].type;
    pthread_mutex_unlock(&lock);
    return type;
}

static cudaError_t reserve(void **pointer, size_t size, enum cudaMemoryType type) {
    if (type == cudaMemoryTypeDevice && used + size > memory)
        return cudaErrorMemoryAllocation;
    *pointer = mmap(0, size ? size : 1, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (*pointer == MAP_FAILED) return cudaErrorMemoryAllocation;
    add(*pointer, size ? size : 1, type);
    return cudaSuccess;
}

static cudaError_t release(void *pointer) {
    size_t size = pointer ? drop(pointer) : 0;
    if (size) munmap(pointer, size);
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t n) {
    return reserve(p, n, cudaMemoryTypeDevice);
}
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned flags) {
    return reserve(p, n, cudaMemoryTypeHost);
}
cudaError_t cudaFree(void *p) { return release(p); }
cudaError_t cudaFreeHost(void *p) { return release(p); }
DO(cudaHostRegister(void *p, size_t n, unsigned flags), add(p, n, cudaMemoryTypeHost))
DO(cudaHostUnregister(void *p), drop(p))
DO(cudaMemGetInfo(size_t *free, size_t *total), *total = memory; *free = memory - used)
DO(cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p),
   memset(a, 0, sizeof *a); a->type = type_of(p))

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n,
                            enum cudaMemcpyKind kind, cudaStream_t stream) {
    queued();
    if (kind == cudaMemcpyDefault)
        kind = type_of(to) != cudaMemoryTypeDevice     ? cudaMemcpyDeviceToHost
               : type_of(from) == cudaMemoryTypeDevice ? cudaMemcpyDeviceToDevice
                                                       : cudaMemcpyHostToDevice;
    if (kind == cudaMemcpyDeviceToDevice) {
        if (n <= COPIED) memmove(to, from, n);
        return cudaSuccess;
    }
    memmove(to, from, n);
    const void *host = kind == cudaMemcpyDeviceToHost ? to : from;
    if (type_of(host) == cudaMemoryTypeUnregistered) {
        waits(kind == cudaMemcpyDeviceToHost ? "copy to pageable memory"
                                             : "copy from pageable memory");
        staged = 1;
    }
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind) {
    cudaMemcpyAsync(to, from, n, kind, 0);
    if (!staged) waits("cudaMemcpy");
    return queued();
}
cudaError_t cudaMemcpyPeerAsync(void *to, int a, const void *from, int b, size_t n,
                                cudaStream_t stream) {
    return cudaMemcpyAsync(to, from, n, cudaMemcpyDeviceToDevice, stream);
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t n, cudaStream_t stream) {
    char *start = to, *stop = start + n;
    char *pages = (char *)(((uintptr_t)start + PAGE - 1) / PAGE * PAGE);
    char *rest = (char *)((uintptr_t)stop / PAGE * PAGE);
    if (n <= COPIED) {
        memset(to, value, n);
    } else if (!value) {
        /* Pages that are given back are zero. */
        memset(start, 0, pages - start);
        madvise(pages, rest - pages, MADV_DONTNEED);
        memset(rest, 0, stop - rest);
    }
    return queued();
}
cudaError_t cudaMemset(void *to, int value, size_t n) {
    return cudaMemsetAsync(to, value, n, 0);
}

/* ---- kernels */

cudaError_t cudaLaunchKernel(const void *f, dim3 grid, dim3 block, void **args,
                             size_t shared, cudaStream_t stream) {
    return queued();
}
cudaError_t __cudaLaunchKernel(const void *f, dim3 grid, dim3 block, void **args,
                               size_t shared, cudaStream_t stream) {
    return queued();
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *f,
                                void **args) {
    return queued();
}
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) {
    memset(a, 0, sizeof *a);
    a->maxThreadsPerBlock = 1024;
    a->numRegs = 32;
    a->ptxVersion = a->binaryVersion = 90;
    return cudaSuccess;
}
DO(cudaFuncSetAttribute(const void *f, enum cudaFuncAttribute a, int value), )
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int *blocks, const void *f, int threads, size_t shared, unsigned flags) {
    *blocks = 2;
    return cudaSuccess;
}

/* ---- streams and events */

/* A stream is the number of the capture that goes on in it, or 0. */
static unsigned long long captures;
static unsigned long long *capture(cudaStream_t s) {
    static unsigned long long none;
    int own = s && s != cudaStreamLegacy && s != cudaStreamPerThread;
    return own ? (unsigned long long *)s : &none;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (*capture(stream)) return cudaErrorStreamCaptureUnsupported;
    if (!staged) waits("cudaStreamSynchronize");
    return queued();
}
cudaError_t cudaDeviceSynchronize(void) {
    waits("cudaDeviceSynchronize");
    return queued();
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    waits("cudaEventSynchronize");
    return queued();
}
DO(cudaStreamQuery(cudaStream_t stream), )
DO(cudaEventQuery(cudaEvent_t event), )
DO(cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags), )
DO(cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority),
   *s = calloc(1, sizeof captures))
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) {
    return cudaStreamCreateWithPriority(s, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t *s) {
    return cudaStreamCreateWithPriority(s, 0, 0);
}
DO(cudaStreamDestroy(cudaStream_t s), free(s))
DO(cudaStreamGetPriority(cudaStream_t s, int *priority), *priority = 0)
DO(cudaDeviceGetStreamPriorityRange(int *least, int *greatest), *least = 0; *greatest = -5)
DO(cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status),
   *status = *capture(s) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone)
#if CUDART_VERSION >= 13000
cudaError_t cudaStreamGetCaptureInfo(
    cudaStream_t s, enum cudaStreamCaptureStatus *status, unsigned long long *id,
    cudaGraph_t *graph, const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
    size_t *count) {
#else
cudaError_t cudaStreamGetCaptureInfo_v2(
    cudaStream_t s, enum cudaStreamCaptureStatus *status, unsigned long long *id,
    cudaGraph_t *graph, const cudaGraphNode_t **nodes, size_t *count) {
#endif
    if (id) *id = *capture(s);
    return cudaStreamIsCapturing(s, status);
}
DO(cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode), )
DO(cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags), *e = malloc(1))
cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }
DO(cudaEventDestroy(cudaEvent_t e), free(e))
DO(cudaEventRecord(cudaEvent_t e, cudaStream_t s), )
DO(cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned flags), )
DO(cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b), *ms = 1)

/* ---- graphs: what is captured was called, and a launch of it does nothing */

static int graph_launches;
int null_gpu_graph_launches(void) { return graph_launches; }

DO(cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode),
   *capture(s) = __sync_add_and_fetch(&captures, 1))
DO(cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g), *capture(s) = 0; *g = malloc(1))
DO(cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *nodes, size_t *count), *count = 1)
DO(cudaGraphInstantiateWithFlags(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long flags),
   *e = malloc(1))
DO(cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s),
   __sync_fetch_and_add(&graph_launches, 1))
DO(cudaGraphDestroy(cudaGraph_t g), free(g))
DO(cudaGraphExecDestroy(cudaGraphExec_t e), free(e))

/* ---- devices: an H100 as far as anybody asks */

static __thread int device;

DO(cudaGetDeviceCount(int *n), *n = GPUS)
DO(cudaGetDevice(int *d), *d = device)
cudaError_t cudaSetDevice(int d) {
    if (d < 0 || d >= GPUS) return cudaErrorInvalidDevice;
    device = d;
    return cudaSuccess;
}
cudaError_t cudaInitDevice(int d, unsigned device_flags, unsigned flags) {
    return cudaSetDevice(d);
}
DO(cudaDriverGetVersion(int *version), *version = CUDART_VERSION)
cudaError_t cudaRuntimeGetVersion(int *version) { return cudaDriverGetVersion(version); }
DO(cudaGetLastError(void), )
DO(cudaPeekAtLastError(void), )
DO(cudaDeviceCanAccessPeer(int *can, int a, int b), *can = 1)
DO(cudaDeviceEnablePeerAccess(int d, unsigned flags), )
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int d) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "NVIDIA H100 that is not there");
    p->major = 9;
    p->totalGlobalMem = memory;
    p->multiProcessorCount = 132;
    p->warpSize = 32;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7fffffff;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxBlocksPerMultiProcessor = 32;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = 227 << 10;
    p->sharedMemPerMultiprocessor = 228 << 10;
    p->l2CacheSize = 50 << 20;
    p->memoryBusWidth = 5120;
    p->textureAlignment = 512;
    p->unifiedAddressing = 1;
    p->pciBusID = d;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr name, int d) {
    struct cudaDeviceProp p;
    cudaGetDeviceProperties(&p, d);
    switch (name) {
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxGridDimX: *value = p.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY: *value = p.maxGridSize[1]; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = p.sharedMemPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = p.sharedMemPerBlockOptin;
        break;
    default: *value = 1;
    }
    return cudaSuccess;
}

/* The driver's functions are asked for by name, and are not needed. */
static int nothing(void) { return 0; }
cudaError_t cudaGetDriverEntryPointByVersion(
    const char *name, void **function, unsigned version, unsigned long long flags,
    enum cudaDriverEntryPointQueryResult *result) {
    *function = (void *)nothing;
    if (result) *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}
