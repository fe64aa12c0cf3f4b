// CUDA C on a processor: the threads of a block run one after the other, phase by phase where they exchange values.
// It includes nothing, as most of the time of small files would be spent on headers.
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
extern "C" {
double exp(double), expm1(double), log(double), log1p(double), tanh(double), sqrt(double), pow(double, double);
double sin(double), cos(double), floor(double), ceil(double);
float expf(float), expm1f(float), logf(float), log1pf(float), tanhf(float), sqrtf(float), powf(float, float);
float sinf(float), cosf(float), floorf(float), ceilf(float);
void *calloc(__SIZE_TYPE__, __SIZE_TYPE__);
void free(void *);
}
static inline int min(int a, int b) { return a < b ? a : b; }
#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(threads)
#define EACH_THREAD for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++)
#define THEN_EACH_THREAD for (phase++, threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++)
struct place { int x, y; };
static place blockIdx, threadIdx, blockDim, gridDim;
// Barriers and blocks so far: between two of them, no thread may touch what another one writes.
static int phase;
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned __int128)a * b >> 64;
}
// Accesses outside an array go elsewhere and are counted; AddressSanitizer is left to find them itself.
extern "C" { long long outside = 0, races = 0; }
static inline bool inside(int i, long long length)
{
#ifdef __SANITIZE_ADDRESS__
    return true;
#endif
    return (i >= 0 && i < length) || (outside++, false);
}
// Who has touched an element: the number of a thread, or -1 for several readers.
struct Touched {
    int writer, reader, when;
    void read(int thread, int now)
    {
        renew(now);
        races += writer && writer != thread;
        reader = reader && reader != thread ? -1 : thread;
    }
    void write(int thread, int now)
    {
        renew(now);
        races += (writer && writer != thread) || (reader && reader != thread);
        writer = thread;
    }
    void renew(int now) { if (when != now) *this = {0, 0, now}; }
};
template <class T> struct Element {
    T &value;
    Touched &touched;
    int thread, now;
    operator T() const { return touched.read(thread, now), value; }
    Element &operator=(T other) { return touched.write(thread, now), value = other, *this; }
    Element &operator=(const Element &other) { return *this = (T)other; }
};
// An array that a launch only reads.
template <class T> struct Read {
    T *elements;
    long long length;
    const T &operator[](int i) const
    {
        static T elsewhere;
        return inside(i, length) ? elements[i] : elsewhere;
    }
};
// An array that a launch writes: what one thread writes, no other one of the launch may touch.
template <class T> struct Written {
    T *elements;
    long long length;
    Touched *touched;
    Element<T> operator[](int i) const
    {
        static T elsewhere;
        static Touched nobody;
        int thread = (blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x + 1;
        if (!inside(i, length)) return {elsewhere, nobody = {}, thread, 0};
        return {elements[i], touched[i], thread, 0};
    }
};
// Memory that the threads of a block share.
template <class T, int LENGTH> struct Shared {
    T elements[LENGTH];
    Touched touched[LENGTH];
    Element<T> operator[](int i)
    {
        int at = inside(i, LENGTH) ? i : 0;
        return {elements[at], touched[at], threadIdx.x + 1, phase};
    }
};
// Kernels that are written as phases loop over the threads themselves.
template <class Function> static void launch(Function kernel, int columns, int rows, int threads, bool phases)
{
    blockDim.x = threads;
    gridDim = {columns, rows};
    for (blockIdx.y = 0; blockIdx.y < rows; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < columns; blockIdx.x++, phase++)
            if (phases) kernel();
            else for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++) kernel();
}
