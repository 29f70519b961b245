// Which rows are worth comparing, and how similar they are: the default search of a generation as one pass.
//
// Codes lie as FAISS's FastScan packs them (faiss/impl/pq4_fast_scan.cpp): blocks of 32 rows, in each 16 bytes
// for every sub-quantiser, whose low nibbles are rows 0 8 1 9 ... 7 15 and whose high ones 16 24 17 25 ... 23 31.
// What FAISS's own scan lacks: it reads ahead of the processor's prefetcher, which stops at every page; it keeps
// whatever lies within a limit and never sorts; and it fetches the vectors of the rows found before it needs them.
// A scan of a million rows is as quick as its codes can be read.
//
// Plain C without Python: engine/index/kernel.py loads it. Levels: 2 AVX-512BW, 1 AVX2 and FMA, 0 neither, where
// FAISS does the work.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_PER_BLOCK 32
#define CENTROIDS 16
#define TILE_ROWS 8192      // read from memory once for all probes: 128 KB of codes of 16 bytes
#define READ_AHEAD 4096     // bytes
#define CODES_AHEAD 24      // rows whose fine codes are on their way while one is looked at
#define VECTORS_AHEAD 6     // rows whose vectors are on their way while one is compared
#define LINE 64             // bytes of a cache line

struct codes {
    const uint8_t *packed;
    const int64_t *ids;      // NULL: a row's number
    int64_t num_rows;
};

struct gallery {
    struct codes all, sample;
    const float *centroids;  // [num_subquantisers][16][axes]
    const uint8_t *fine;     // [all.num_rows][fine_bytes], two axes in a byte: axis i and, higher, axis i + 64
    const uint8_t *levels, *squares;  // [16] of a fine code, in 7 bits
    const float *spreads;    // [dimension], what a level of 1 is on each axis
    const float *vectors;    // [all.num_rows][dimension], at any address
    int64_t num_subquantisers, axes, dimension;
    int64_t fine_bytes;      // 64 for every 128 axes or part of them
    float level_step, square_step;
};

struct question {
    const float *probes;     // [num_probes][dimension]
    const float *rotated;    // the same as the codes see them
    const uint8_t *alive;    // bitmap, lowest bit first; NULL: all
    int64_t num_probes, num_alive_bytes;
    int64_t rank;            // of the sample's row that tells the limit; 0: no limit
    int64_t num_found;       // rows whose fine codes are looked at for each probe, at most
    int64_t num_compared;    // rows whose vectors are compared, at most
    int64_t num_rows;        // rows wanted of each
};

// One probe's rows within its limit, as far as was scanned.
struct within {
    uint8_t *tables;
    uint32_t *rows;
    uint16_t *sums;
    int64_t count, capacity;
    float scale, offset;     // distance = offset + sum / scale
    uint16_t limit;
};

// A block of the scan with rows within the limit.
struct hit {
    uint16_t sums[ROWS_PER_BLOCK];
    int64_t block;
    uint32_t rows;           // a bit for each that is
};

// All that one call needs beside its answers, in one piece.
struct memory {
    uint8_t *piece;
    int64_t used;
    uint32_t *histogram;
    int64_t num_sums;
    struct hit *hits;        // of one tile, and one more
};

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx2,fma,bmi")))
#define AVX2 __attribute__((target("avx2,fma,bmi")))

int identiface_level(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") ? 2 : 1;
}

static inline void fetch(const void *at, int64_t num_bytes) {
    for (int64_t line = 0; line < num_bytes; line += LINE) _mm_prefetch((const char *)at + line, _MM_HINT_T0);
}

static inline int is_alive(const struct question *asked, uint64_t row) {
    if (!asked->alive) return 1;
    return (int64_t)(row >> 3) < asked->num_alive_bytes && (asked->alive[row >> 3] >> (row & 7) & 1);
}

// Squared distances of a probe to each sub-quantiser's centroids, in 8 bits. Sums of them stay below 65,536.
static void make_tables(const struct gallery *in, const float *probe, int64_t num_slots, struct within *to) {
    const int64_t num = in->num_subquantisers, axes = in->axes;
    float values[CENTROIDS], widest = 0, total = 0;
    to->offset = 0;
    for (int pass = 0; pass < 2; pass++) {
        const float *centroid = in->centroids;
        for (int64_t i = 0; i < num; i++) {
            float least = 0, most = 0;
            for (int j = 0; j < CENTROIDS; j++) {
                float sum = 0;
                for (int64_t axis = 0; axis < axes; axis++, centroid++) {
                    const float gap = *centroid - probe[i * axes + axis];
                    sum += gap * gap;
                }
                values[j] = sum;
                least = j == 0 || sum < least ? sum : least;
                most = sum > most ? sum : most;
            }
            if (pass) {
                for (int j = 0; j < CENTROIDS; j++)
                    to->tables[i * CENTROIDS + j] = (uint8_t)((values[j] - least) * to->scale + 0.5f);
            } else {
                to->offset += least;
                total += most - least;
                widest = most - least > widest ? most - least : widest;
            }
        }
        if (!pass) {
            const float by_sum = (65535.0f - num) / total, by_entry = 255.0f / widest;
            to->scale = total > 1e-30f ? (by_sum < by_entry ? by_sum : by_entry) : 1.0f;
        }
    }
    memset(to->tables + num * CENTROIDS, 0, (num_slots - num) * CENTROIDS);
}

// Sums of 32 rows, in their order, of what was added up in bytes: a and c by pairs of bytes, b and d the odd ones.
AVX512 static inline __m512i ordered_512(__m512i a, __m512i b, __m512i c, __m512i d) {
    a = _mm512_sub_epi16(a, _mm512_slli_epi16(b, 8));
    c = _mm512_sub_epi16(c, _mm512_slli_epi16(d, 8));
    const __m512i low = _mm512_add_epi16(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
    const __m512i high = _mm512_add_epi16(_mm512_shuffle_i32x4(c, d, 0x88), _mm512_shuffle_i32x4(c, d, 0xdd));
    return _mm512_add_epi16(_mm512_shuffle_i32x4(low, high, 0x88), _mm512_shuffle_i32x4(low, high, 0xdd));
}

// `num_slots` is even, best a constant.
AVX512 static inline __attribute__((always_inline)) __m512i block_512(const uint8_t *codes, const uint8_t *tables,
                                                                      int64_t num_slots) {
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
#pragma GCC unroll 8
    for (int64_t at = 0; at < num_slots * 16; at += 64) {
        const __mmask8 there = num_slots * 16 - at < 64 ? 0x0f : 0xff;
        const __m512i code = _mm512_maskz_loadu_epi64(there, codes + at);
        const __m512i table = _mm512_maskz_loadu_epi64(there, tables + at);
        const __m512i low = _mm512_shuffle_epi8(table, _mm512_and_si512(code, nibble));
        const __m512i high = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(code, 4), nibble));
        a = _mm512_add_epi16(a, low);
        b = _mm512_add_epi16(b, _mm512_srli_epi16(low, 8));
        c = _mm512_add_epi16(c, high);
        d = _mm512_add_epi16(d, _mm512_srli_epi16(high, 8));
    }
    return ordered_512(a, b, c, d);
}

// The codes of 128 dimensions have 16 or 32 slots, whose tables then stay in registers. That a block
// has rows within the limit is not foreseen by the processor: none of its branches depends on it.
#define SCAN_512(NAME, NUM_SLOTS)                                                                                   \
    AVX512 static int64_t NAME(const uint8_t *packed, int64_t block, int64_t end, const uint8_t *tables,            \
                               int64_t num_slots, uint16_t limit, struct hit *hits) {                               \
        const __m512i most = _mm512_set1_epi16((short)limit);                                                       \
        int64_t count = 0;                                                                                          \
        (void)num_slots;                                                                                            \
        for (; block < end; block++) {                                                                              \
            const uint8_t *codes = packed + block * (NUM_SLOTS) * 16;                                               \
            fetch(codes + READ_AHEAD, (NUM_SLOTS) * 16);                                                            \
            const __m512i sums = block_512(codes, tables, (NUM_SLOTS));                                             \
            hits[count].rows = _mm512_cmple_epu16_mask(sums, most);                                                 \
            hits[count].block = block;                                                                              \
            _mm512_storeu_si512(hits[count].sums, sums);                                                            \
            count += hits[count].rows != 0;                                                                         \
        }                                                                                                           \
        return count;                                                                                               \
    }
SCAN_512(scan_512_of_16, 16)
SCAN_512(scan_512_of_32, 32)
SCAN_512(scan_512, num_slots)

AVX2 static inline __m128i halves_added(__m256i both) {
    return _mm_add_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
}

AVX2 static int64_t scan_256(const uint8_t *packed, int64_t block, int64_t end, const uint8_t *tables,
                             int64_t num_slots, uint16_t limit, struct hit *hits) {
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m128i most = _mm_set1_epi16((short)limit);
    int64_t count = 0;
    for (; block < end; block++) {
        const uint8_t *codes = packed + block * num_slots * 16;
        __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
        fetch(codes + READ_AHEAD, num_slots * 16);
        for (int64_t at = 0; at < num_slots * 16; at += 32) {
            const __m256i code = _mm256_loadu_si256((const __m256i *)(codes + at));
            const __m256i table = _mm256_loadu_si256((const __m256i *)(tables + at));
            const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(code, nibble));
            const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(code, 4), nibble));
            a = _mm256_add_epi16(a, low);
            b = _mm256_add_epi16(b, _mm256_srli_epi16(low, 8));
            c = _mm256_add_epi16(c, high);
            d = _mm256_add_epi16(d, _mm256_srli_epi16(high, 8));
        }
        a = _mm256_sub_epi16(a, _mm256_slli_epi16(b, 8));
        c = _mm256_sub_epi16(c, _mm256_slli_epi16(d, 8));
        const __m128i quarters[4] = {halves_added(a), halves_added(b), halves_added(c), halves_added(d)};
        uint32_t rows = 0;
        for (int i = 0; i < 4; i++) {
            const __m128i is_in = _mm_cmpeq_epi16(_mm_min_epu16(quarters[i], most), quarters[i]);
            rows |= (uint32_t)_mm_movemask_epi8(_mm_packs_epi16(is_in, _mm_setzero_si128())) << (8 * i);
            _mm_storeu_si128((__m128i *)(hits[count].sums + 8 * i), quarters[i]);
        }
        hits[count].rows = rows;
        hits[count].block = block;
        count += rows != 0;
    }
    return count;
}

// Keep the `wanted` rows with the least sums, in their order, and have the limit say so.
static void keep_least(struct within *of, int64_t wanted, struct memory *memory) {
    uint32_t *counts = memory->histogram;
    if (of->count <= wanted) return;
    memset(counts, 0, memory->num_sums * sizeof *counts);
    for (int64_t i = 0; i < of->count; i++) counts[of->sums[i]]++;
    int64_t below = 0;
    uint32_t last = 0;
    while (below + counts[last] < wanted) below += counts[last++];
    int64_t ties = wanted - below, kept = 0;
    for (int64_t i = 0; i < of->count; i++) {
        const uint16_t sum = of->sums[i];
        if (sum > last || (sum == last && ties-- <= 0)) continue;
        of->rows[kept] = of->rows[i];
        of->sums[kept++] = sum;
    }
    of->count = kept;
    of->limit = (uint16_t)last;
}

typedef int64_t (*scan_blocks)(const uint8_t *, int64_t, int64_t, const uint8_t *, int64_t, uint16_t, struct hit *);

static scan_blocks scan_of(int level, int64_t num_slots) {
    if (level == 2 && num_slots == 16) return scan_512_of_16;
    if (level == 2 && num_slots == 32) return scan_512_of_32;
    return level == 2 ? scan_512 : scan_256;
}

// Add the living rows of a tile from `start` on that are within the limit; then keep no more than `wanted` of all.
static void scan(const struct codes *in, const struct question *asked, int64_t num_slots, scan_blocks scan_tile,
                 int64_t start, int64_t wanted, struct within *to, struct memory *memory) {
    const int64_t end = start + TILE_ROWS < in->num_rows ? start + TILE_ROWS : in->num_rows;
    const int64_t last = (end + ROWS_PER_BLOCK - 1) / ROWS_PER_BLOCK;
    const int64_t count = scan_tile(in->packed, start / ROWS_PER_BLOCK, last, to->tables, num_slots, to->limit,
                                    memory->hits);
    for (const struct hit *hit = memory->hits; hit < memory->hits + count; hit++) {
        const int64_t row = hit->block * ROWS_PER_BLOCK;
        uint32_t found = hit->rows;
        if (end - row < ROWS_PER_BLOCK) found &= (1u << (end - row)) - 1;
        for (; found; found &= found - 1) {
            const int place = __builtin_ctz(found);
            const uint64_t id = in->ids ? (uint64_t)in->ids[row + place] : (uint64_t)(row + place);
            to->rows[to->count] = (uint32_t)id;
            to->sums[to->count] = hit->sums[place];
            to->count += is_alive(asked, id);
        }
    }
    if (to->count > to->capacity - TILE_ROWS - 1) keep_least(to, wanted, memory);
}

// What the fine codes say of a row: the larger the nearer. sum over the axes of level x weight + level^2 x
// weight of squares; levels are in 7 bits and weights in 8, so that no sum of two leaves 16 bits.
AVX512 static int32_t fine_512(const struct gallery *in, const uint8_t *codes, const int8_t *weights) {
    const __m512i nibble = _mm512_set1_epi8(15), ones = _mm512_set1_epi16(1);
    const __m512i levels = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)in->levels));
    const __m512i squares = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)in->squares));
    __m512i sum = _mm512_setzero_si512();
    for (int64_t at = 0; at < in->fine_bytes; at += 64, codes += 64) {
        const __m512i code = _mm512_loadu_si512(codes);
        for (int half = 0; half < 2; half++, weights += 128) {
            const __m512i one = _mm512_and_si512(half ? _mm512_srli_epi16(code, 4) : code, nibble);
            const __m512i a = _mm512_maddubs_epi16(_mm512_shuffle_epi8(levels, one), _mm512_loadu_si512(weights));
            const __m512i b = _mm512_maddubs_epi16(_mm512_shuffle_epi8(squares, one), _mm512_loadu_si512(weights + 64));
            sum = _mm512_add_epi32(sum, _mm512_add_epi32(_mm512_madd_epi16(a, ones), _mm512_madd_epi16(b, ones)));
        }
    }
    return _mm512_reduce_add_epi32(sum);
}

AVX2 static int32_t fine_256(const struct gallery *in, const uint8_t *codes, const int8_t *weights) {
    const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    const __m256i levels = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)in->levels));
    const __m256i squares = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)in->squares));
    __m256i sum = _mm256_setzero_si256();
    for (int64_t at = 0; at < in->fine_bytes; at += 64, codes += 64) {
        for (int half = 0; half < 2; half++, weights += 128) {
            for (int side = 0; side < 64; side += 32) {
                const __m256i code = _mm256_loadu_si256((const __m256i *)(codes + side));
                const __m256i one = _mm256_and_si256(half ? _mm256_srli_epi16(code, 4) : code, nibble);
                const __m256i *by = (const __m256i *)(weights + side);
                const __m256i a = _mm256_maddubs_epi16(_mm256_shuffle_epi8(levels, one), _mm256_loadu_si256(by));
                const __m256i b = _mm256_maddubs_epi16(_mm256_shuffle_epi8(squares, one), _mm256_loadu_si256(by + 2));
                sum = _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones)));
            }
        }
    }
    int32_t lanes[8], total = 0;
    _mm256_storeu_si256((__m256i *)lanes, sum);
    for (int lane = 0; lane < 8; lane++) total += lanes[lane];
    return total;
}

AVX512 static float dot_512(const float *a, const float *b, int64_t num) {
    __m512 first = _mm512_setzero_ps(), second = first;
    int64_t i = 0;
    for (; i + 32 <= num; i += 32) {
        first = _mm512_fmadd_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i), first);
        second = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 16), _mm512_loadu_ps(b + i + 16), second);
    }
    for (; i < num; i += 16) {
        const __mmask16 rest = num - i < 16 ? (__mmask16)((1u << (num - i)) - 1) : 0xffff;
        first = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(rest, a + i), _mm512_maskz_loadu_ps(rest, b + i), first);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(first, second));
}

AVX2 static float dot_256(const float *a, const float *b, int64_t num) {
    __m256 first = _mm256_setzero_ps(), second = first;
    int64_t i = 0;
    for (; i + 16 <= num; i += 16) {
        first = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), first);
        second = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8), second);
    }
    float lanes[8], sum = 0;
    _mm256_storeu_ps(lanes, _mm256_add_ps(first, second));
    for (int lane = 0; lane < 8; lane++) sum += lanes[lane];
    for (; i < num; i++) sum += a[i] * b[i];
    return sum;
}

static inline int is_worse(float similarity, int64_t row, float other, int64_t other_row) {
    return similarity < other || (similarity == other && row > other_row);
}

// Let the row at `place` sink in a heap with the worst row on top.
static void sink(float *similarities, int64_t *rows, int64_t place, int64_t count) {
    const float similarity = similarities[place];
    const int64_t row = rows[place];
    for (int64_t child; (child = 2 * place + 1) < count; place = child) {
        if (child + 1 < count && is_worse(similarities[child + 1], rows[child + 1], similarities[child], rows[child]))
            child++;
        if (!is_worse(similarities[child], rows[child], similarity, row)) break;
        similarities[place] = similarities[child];
        rows[place] = rows[child];
    }
    similarities[place] = similarity;
    rows[place] = row;
}

static void heapify(float *values, int64_t *rows, int64_t count) {
    for (int64_t place = count / 2; place-- > 0;) sink(values, rows, place, count);
}

// One more row for the `wanted` best in a heap; returns how many there are.
static inline int64_t offer(float *values, int64_t *rows, int64_t count, int64_t wanted, float value, int64_t row) {
    if (count < wanted) {
        values[count] = value;
        rows[count++] = row;
        if (count == wanted) heapify(values, rows, count);
    } else if (is_worse(values[0], rows[0], value, row)) {
        values[0] = value;
        rows[0] = row;
        sink(values, rows, 0, count);
    }
    return count;
}

// Of the rows found those nearest by the fine codes, in no order; returns how many.
static int64_t refine(const struct gallery *in, const int8_t *weights, const struct within *found, int level,
                      int64_t wanted, float *values, int64_t *rows) {
    const int64_t row_bytes = in->fine_bytes;
    int64_t count = 0;
    for (int64_t i = 0; i < found->count + CODES_AHEAD; i++) {
        if (i < found->count) fetch(in->fine + found->rows[i] * row_bytes, row_bytes);
        if (i < CODES_AHEAD) continue;
        const int64_t row = found->rows[i - CODES_AHEAD];
        const uint8_t *codes = in->fine + row * row_bytes;
        const int32_t value = level == 2 ? fine_512(in, codes, weights) : fine_256(in, codes, weights);
        count = offer(values, rows, count, wanted, (float)value, row);
    }
    return count;
}

// The most similar of `num` rows, best first.
static void compare(const struct gallery *in, const float *probe, const int64_t *those, int64_t num, int level,
                       int64_t wanted, float *similarities, int64_t *rows) {
    const int64_t dimension = in->dimension;
    int64_t count = 0;
    for (int64_t i = 0; i < num + VECTORS_AHEAD; i++) {
        if (i < num) fetch(in->vectors + those[i] * dimension, dimension * (int64_t)sizeof(float));
        if (i < VECTORS_AHEAD) continue;
        const int64_t row = those[i - VECTORS_AHEAD];
        const float *vector = in->vectors + row * dimension;
        const float similarity = level == 2 ? dot_512(probe, vector, dimension) : dot_256(probe, vector, dimension);
        count = offer(similarities, rows, count, wanted, similarity, row);
    }
    if (count < wanted) heapify(similarities, rows, count);
    for (int64_t last = count - 1; last > 0; last--) {
        const float similarity = similarities[0];
        const int64_t row = rows[0];
        similarities[0] = similarities[last];
        rows[0] = rows[last];
        similarities[last] = similarity;
        rows[last] = row;
        sink(similarities, rows, 0, last);
    }
}

// What a probe asks of the fine codes, see fine_512; of 128 axes 4 x 64: levels, squares, levels, squares.
static void make_weights(const struct gallery *in, const float *probe, int8_t *weights) {
    const int64_t num_weights = 4 * in->fine_bytes;
    float most = 1e-30f, scale;
    for (int pass = 0; pass < 2; pass++) {
        scale = 127.0f / most;
        for (int64_t i = 0; i < num_weights; i++) {
            const int64_t axis = i / 128 * 64 + i % 64;
            const float spread = axis < in->dimension ? in->spreads[axis] : 0.0f;
            const float weight = i / 64 % 2 ? -spread * spread * in->square_step
                                            : spread * 2.0f * in->level_step * (spread > 0 ? probe[axis] : 0.0f);
            const float size = weight < 0 ? -weight : weight;
            if (pass) weights[i] = (int8_t)(weight * scale + (weight < 0 ? -0.5f : 0.5f));
            else if (size > most) most = size;
        }
    }
}

static void *part(struct memory *of, int64_t num_bytes) {
    void *found = of->piece ? of->piece + of->used : NULL;
    of->used += (num_bytes + LINE - 1) / LINE * LINE;
    return found;
}

// Rows and similarities [num_probes][num_rows] of each probe, best first, untouched where there are no more; the
// distance by the codes within which they were found. Returns 0, or -1 without memory.
int identiface_nearest(const struct gallery *in, const struct question *asked, int level, int64_t *rows,
                       float *similarities, float *radii) {
    const int64_t num_slots = (in->num_subquantisers + 1) / 2 * 2, wanted = asked->num_found;
    const int64_t capacity = 2 * (wanted > asked->rank ? wanted : asked->rank) + 2 * TILE_ROWS;
    const scan_blocks scan_tile = scan_of(level, num_slots);
    struct memory memory = {.num_sums = num_slots * 255 + 1};
    struct within *found = NULL;
    uint8_t *tables = NULL;
    uint32_t *found_rows = NULL;
    uint16_t *found_sums = NULL;
    int8_t *weights = NULL;
    float *values = NULL;
    int64_t *finer = NULL;
    for (int pass = 0; pass < 2; pass++) {  // first to know how much
        memory.used = 0;
        memory.histogram = part(&memory, memory.num_sums * sizeof *memory.histogram);
        memory.hits = part(&memory, (TILE_ROWS / ROWS_PER_BLOCK + 1) * sizeof *memory.hits);
        found = part(&memory, asked->num_probes * sizeof *found);
        tables = part(&memory, asked->num_probes * num_slots * CENTROIDS);
        weights = part(&memory, 4 * in->fine_bytes);
        values = part(&memory, asked->num_compared * sizeof *values);
        finer = part(&memory, asked->num_compared * sizeof *finer);
        found_rows = part(&memory, asked->num_probes * capacity * sizeof *found_rows);
        found_sums = part(&memory, asked->num_probes * capacity * sizeof *found_sums);
        if (!pass && !(memory.piece = malloc(memory.used))) return -1;
    }
    for (int64_t i = 0; i < asked->num_probes; i++) {
        struct within *one = found + i;
        *one = (struct within){tables + i * num_slots * CENTROIDS, found_rows + i * capacity,
                               found_sums + i * capacity, 0, capacity, 0, 0, 65535};
        make_tables(in, asked->rotated + i * in->dimension, num_slots, one);
        if (!asked->rank) continue;
        for (int64_t start = 0; start < in->sample.num_rows; start += TILE_ROWS) {
            scan(&in->sample, asked, num_slots, scan_tile, start, asked->rank, one, &memory);
            keep_least(one, asked->rank, &memory);
        }
        if (one->count < asked->rank) one->limit = 65535;
        one->count = 0;
    }
    for (int64_t start = 0; start < in->all.num_rows; start += TILE_ROWS)
        for (int64_t i = 0; i < asked->num_probes; i++)
            scan(&in->all, asked, num_slots, scan_tile, start, wanted, found + i, &memory);
    for (int64_t i = 0; i < asked->num_probes; i++) {
        keep_least(found + i, wanted, &memory);
        radii[i] = found[i].offset + (found[i].limit + 0.5f) / found[i].scale;
        make_weights(in, asked->rotated + i * in->dimension, weights);
        const int64_t num = refine(in, weights, found + i, level, asked->num_compared, values, finer);
        compare(in, asked->probes + i * in->dimension, finer, num, level, asked->num_rows,
                similarities + i * asked->num_rows, rows + i * asked->num_rows);
    }
    free(memory.piece);
    return 0;
}

// Rows of lists whose sums are at most their list's limit: how many, in the order in which they lie; -1 where they
// are more than `capacity`.
int64_t identiface_within(const struct codes *lists, const int32_t *limits, int64_t num_lists, int64_t num_slots,
                          const uint8_t *tables, int level, int64_t *rows, int64_t capacity) {
    const scan_blocks scan_tile = scan_of(level, num_slots);
    struct hit hits[TILE_ROWS / ROWS_PER_BLOCK + 1];
    int64_t count = 0;
    for (int64_t number = 0; number < num_lists; number++) {
        const struct codes *in = lists + number;
        const uint16_t limit = limits[number] < 65535 ? (uint16_t)limits[number] : 65535;
        for (int64_t start = 0; limits[number] >= 0 && start < in->num_rows; start += TILE_ROWS) {
            const int64_t end = start + TILE_ROWS < in->num_rows ? start + TILE_ROWS : in->num_rows;
            const int64_t last = (end + ROWS_PER_BLOCK - 1) / ROWS_PER_BLOCK;
            const int64_t num = scan_tile(in->packed, start / ROWS_PER_BLOCK, last, tables, num_slots, limit, hits);
            for (const struct hit *hit = hits; hit < hits + num; hit++) {
                const int64_t row = hit->block * ROWS_PER_BLOCK;
                uint32_t found = hit->rows;
                if (end - row < ROWS_PER_BLOCK) found &= (1u << (end - row)) - 1;
                if (count + ROWS_PER_BLOCK > capacity) return -1;
                for (; found; found &= found - 1) {
                    const int64_t place = row + __builtin_ctz(found);
                    rows[count++] = in->ids ? in->ids[place] : place;
                }
            }
        }
    }
    return count;
}

// Rows of other codes of the same kind within a distance of the probe, as identiface_nearest tells it.
int64_t identiface_around(const struct gallery *in, const struct codes *those, const float *rotated, float radius,
                          int level, int64_t *rows, int64_t capacity) {
    const int64_t num_slots = (in->num_subquantisers + 1) / 2 * 2;
    uint8_t tables[num_slots * CENTROIDS];
    struct within within = {.tables = tables};
    make_tables(in, rotated, num_slots, &within);
    const float limit = (radius - within.offset) * within.scale;
    const int32_t limits[1] = {limit < 0 ? -1 : limit < 65535 ? (int32_t)limit : 65535};
    return identiface_within(those, limits, 1, num_slots, tables, level, rows, capacity);
}

// Inner products of a probe with rows of vectors [..][dimension].
void identiface_products(const float *vectors, int64_t dimension, const float *probe, const int64_t *rows,
                         int64_t num_rows, int level, float *products) {
    for (int64_t i = 0; i < num_rows + VECTORS_AHEAD; i++) {
        if (i < num_rows) fetch(vectors + rows[i] * dimension, dimension * (int64_t)sizeof(float));
        if (i < VECTORS_AHEAD) continue;
        const float *vector = vectors + rows[i - VECTORS_AHEAD] * dimension;
        products[i - VECTORS_AHEAD] = level == 2 ? dot_512(probe, vector, dimension) : dot_256(probe, vector, dimension);
    }
}

#else

int identiface_level(void) { return 0; }

#endif
