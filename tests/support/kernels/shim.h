// CUDA C on a processor: the threads of a block run one after the other, phase by phase where they exchange values.
// It includes nothing, as most of the time of small files would be spent on headers.
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
extern "C" {
double exp(double), expm1(double), log(double), log1p(double), tanh(double), sqrt(double), pow(double, double);
double sin(double), cos(double), floor(double), ceil(double);
float expf(float), expm1f(float), logf(float), log1pf(float), tanhf(float), sqrtf(float), powf(float, float);
float sinf(float), cosf(float), floorf(float), ceilf(float);
}
static inline int min(int a, int b) { return a < b ? a : b; }
#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(threads)
#define __shared__ static
#define EACH_THREAD for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++)
#define THEN_EACH_THREAD EACH_THREAD
struct place { int x, y; };
static place blockIdx, threadIdx, blockDim;
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned __int128)a * b >> 64;
}
// An array of known length; accesses outside it are counted, and go elsewhere.
extern "C" { long long outside = 0; }
template <class T> struct checked {
    T *elements;
    long long length;
    T &operator[](int i) const
    {
        static unsigned long long elsewhere;
        return i >= 0 && i < length ? elements[i] : (outside++, *(T *)&elsewhere);
    }
};
// Kernels that are written as phases loop over the threads themselves.
template <class Function> static void launch(Function kernel, int columns, int rows, int threads, bool phases)
{
    blockDim.x = threads;
    for (blockIdx.y = 0; blockIdx.y < rows; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < columns; blockIdx.x++)
            if (phases) kernel();
            else for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++) kernel();
}
