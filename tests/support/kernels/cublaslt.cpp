// A stand-in for cublasLt on a processor: the functions that are called by ctypes, with the real ones' parameters.
// It reads what it is told from the descriptors alone, so that a wrong attribute, size or layout gives a wrong product.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>

struct Operation { int compute, scale; int32_t transpose[2]; };
struct Layout { int type; uint64_t rows, cols; int64_t ld; int32_t batch; int64_t stride; };
struct Preference { uint64_t workspace; uint32_t reduction, alignment[4]; };
struct Algorithm { uint64_t id, reduction, alignment[4], unused[2]; };
struct Result { Algorithm algorithm; size_t workspace; int state; float waves; int reserved[4]; };
enum { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
static const uint64_t IDS[] = {41, 42, 43, 44};  // the second sums in place, the fourth cannot run
static const uint64_t REDUCTIONS[] = {0, 1, 2, 0};
static int live = 0;

template <class T> static int set(T &field, const void *value, size_t size)
{
    if (size != sizeof(T)) return INVALID_VALUE;
    memcpy(&field, value, size);
    return SUCCESS;
}

template <class T> static T sum(const Layout &a, const Layout &b, bool ta, bool tb, const T *x, const T *y, int64_t i,
                                int64_t j, int64_t begin, int64_t end)
{
    T total = 0;
    for (int64_t k = begin; k < end; k++)
        total += x[ta ? k + i * a.ld : i + k * a.ld] * y[tb ? j + k * b.ld : k + j * b.ld];
    return total;
}

template <class T> static void multiply(const Operation &o, const Layout &a, const Layout &b, const Layout &d,
                                        const T *x, const T *y, T *z, bool split)
{
    int64_t inner = o.transpose[0] ? a.rows : a.cols, half = split ? inner / 2 : inner;
    for (int n = 0; n < d.batch; n++, x += a.stride, y += b.stride, z += d.stride)
        for (uint64_t j = 0; j < d.cols; j++)
            for (uint64_t i = 0; i < d.rows; i++)
                z[i + j * d.ld] = sum(a, b, o.transpose[0], o.transpose[1], x, y, i, j, 0, half)
                    + sum(a, b, o.transpose[0], o.transpose[1], x, y, i, j, half, inner);
}

static bool fits(const Operation &o, const Layout &a, const Layout &b, const Layout &d)
{
    uint64_t m = o.transpose[0] ? a.cols : a.rows, k = o.transpose[0] ? a.rows : a.cols;
    uint64_t n = o.transpose[1] ? b.rows : b.cols, other = o.transpose[1] ? b.cols : b.rows;
    bool types = a.type == o.scale && b.type == o.scale && d.type == o.scale;
    bool compute = o.scale == 1 ? o.compute == 70 : o.compute == 68 || o.compute == 77;
    bool leading = a.ld >= (int64_t)a.rows && b.ld >= (int64_t)b.rows && d.ld >= (int64_t)d.rows;
    return types && compute && leading && m == d.rows && n == d.cols && k == other && a.batch == d.batch && b.batch == d.batch;
}

extern "C" {
size_t cublasLtGetVersion() { return 120900; }
int cublasLtLive() { return live; }
int cublasLtCreate(void **p) { *p = new int(7); return SUCCESS; }
int cublasLtDestroy(int *p) { delete p; return SUCCESS; }
int cublasLtMatmulDescCreate(Operation **p, int compute, int scale)
{
    *p = new Operation{compute, scale, {0, 0}};
    return live++, SUCCESS;
}
int cublasLtMatmulDescDestroy(Operation *p) { delete p; return live--, SUCCESS; }
int cublasLtMatmulDescSetAttribute(Operation *p, int attribute, const void *value, size_t size)
{
    return attribute == 3 || attribute == 4 ? set(p->transpose[attribute - 3], value, size) : INVALID_VALUE;
}
int cublasLtMatrixLayoutCreate(Layout **p, int type, uint64_t rows, uint64_t cols, int64_t ld)
{
    *p = new Layout{type, rows, cols, ld, 1, 0};
    return live++, SUCCESS;
}
int cublasLtMatrixLayoutDestroy(Layout *p) { delete p; return live--, SUCCESS; }
int cublasLtMatrixLayoutSetAttribute(Layout *p, int attribute, const void *value, size_t size)
{
    return attribute == 5 ? set(p->batch, value, size) : attribute == 6 ? set(p->stride, value, size) : INVALID_VALUE;
}
int cublasLtMatmulPreferenceCreate(Preference **p)
{
    *p = new Preference{0, 7, {256, 256, 256, 256}};
    return live++, SUCCESS;
}
int cublasLtMatmulPreferenceDestroy(Preference *p) { delete p; return live--, SUCCESS; }
int cublasLtMatmulPreferenceSetAttribute(Preference *p, int attribute, const void *value, size_t size)
{
    if (attribute == 1) return set(p->workspace, value, size);
    if (attribute == 3) return set(p->reduction, value, size);
    return attribute >= 5 && attribute <= 8 ? set(p->alignment[attribute - 5], value, size) : INVALID_VALUE;
}
int cublasLtMatmulAlgoGetHeuristic(int *handle, Operation *o, Layout *a, Layout *b, Layout *c, Layout *d,
                                   Preference *wish, int wanted, Result *found, int *count)
{
    if (*handle != 7 || !fits(*o, *a, *b, *d) || wish->workspace < 1 << 20) return NOT_SUPPORTED;
    for (*count = 0; *count < wanted && *count < 4; ++*count) {
        Algorithm algorithm = {IDS[*count], REDUCTIONS[*count], {}, {}};
        for (int n = 0; n < 4; n++) algorithm.alignment[n] = wish->alignment[n];
        found[*count] = Result{algorithm, 1 << 20, *count == 3 ? NOT_SUPPORTED : SUCCESS, 1, {}};
    }
    return SUCCESS;
}
int cublasLtMatmulAlgoConfigGetAttribute(const Algorithm *algorithm, int attribute, void *value, size_t size, size_t *written)
{
    uint32_t reduction = algorithm->reduction;
    if (attribute != 3 || size != sizeof(reduction)) return INVALID_VALUE;
    memcpy(value, &reduction, *written = size);
    return SUCCESS;
}
int cublasLtMatmulAlgoCheck(int *handle, Operation *o, Layout *a, Layout *b, Layout *c, Layout *d,
                            const Algorithm *algorithm, Result *result)
{
    *result = Result{*algorithm, 1 << 20, SUCCESS, 1, {}};
    bool known = algorithm->id == IDS[0] || algorithm->id == IDS[2];
    return *handle == 7 && known && fits(*o, *a, *b, *d) ? SUCCESS : INVALID_VALUE;
}
int cublasLtMatmul(int *handle, Operation *o, const void *alpha, const void *x, Layout *a, const void *y, Layout *b,
                   const void *beta, const void *c, Layout *cl, void *z, Layout *d, const Algorithm *algorithm,
                   void *workspace, size_t size, void *stream)
{
    if (*handle != 7 || !fits(*o, *a, *b, *d) || c != z || cl != d || !workspace || size < 1 << 20) return INVALID_VALUE;
    const void *operands[] = {x, y, c, z};
    for (int n = 0; n < 4; n++)
        if (!algorithm->alignment[n] || (uint64_t)operands[n] % algorithm->alignment[n]) return INVALID_VALUE;
    bool split = algorithm->id == IDS[2];
    if (o->scale == 1 && *(double *)alpha == 1 && *(double *)beta == 0)
        multiply(*o, *a, *b, *d, (const double *)x, (const double *)y, (double *)z, split);
    else if (o->scale == 0 && *(float *)alpha == 1 && *(float *)beta == 0)
        multiply(*o, *a, *b, *d, (const float *)x, (const float *)y, (float *)z, split);
    else return INVALID_VALUE;
    return SUCCESS;
}
}
