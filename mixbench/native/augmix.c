/* AugMix on the CPU: in every bit what image_ops.py and augmix.py compute by torch.

   Images are uint8, one channel after the other. A function has no state, and writes only to what
   its caller gives it, so that threads and processes may call it at once. FUSED is defined where
   torch rounds once when it multiplies and adds. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0
#error "float and double must not be computed in a wider type"
#endif

#ifdef FUSED
#define MULTIPLY_ADD(a, b, c) fmaf(a, b, c)
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

#define MOST_DEGREES 30
#define STRIP 32 /* pixels of a line that are computed at once */

typedef uint8_t byte;

typedef struct {
    int64_t channels, height, width, pixels; /* pixels of a channel */
    const float *sources;                    /* (61, H, W, 2), of each whole number of degrees */
    const byte *frames;                      /* (61, H, W), 1 where the source is in the image */
    uint32_t *packed;                        /* room for (H + 1, W + 1) */
} images;

typedef void operation(const byte *restrict from, byte *restrict to, double value, const images *im);

static void look_up(const byte *restrict from, byte *restrict to, const byte *restrict table,
                    int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        to[i] = table[from[i]];
}

static void autocontrast(const byte *restrict from, byte *restrict to, double value,
                         const images *im)
{
    (void)value;
    for (int64_t c = 0; c < im->channels; c++, from += im->pixels, to += im->pixels) {
        byte low = 255, high = 0, table[256];
        for (int64_t i = 0; i < im->pixels; i++) {
            low = from[i] < low ? from[i] : low;
            high = from[i] > high ? from[i] : high;
        }
        const double scale = high > low ? 255.0 / (high - low) : 1.0;
        const double offset = high > low ? -(double)low * scale : 0.0;
        for (int v = 0; v < 256; v++) {
            const double moved = v * scale + offset;
            table[v] = (byte)(int)(moved < 0 ? 0 : moved > 255 ? 255 : moved);
        }
        look_up(from, to, table, im->pixels);
    }
}

static void equalize(const byte *restrict from, byte *restrict to, double value, const images *im)
{
    (void)value;
    for (int64_t c = 0; c < im->channels; c++, from += im->pixels, to += im->pixels) {
        /* Equal neighbours are counted apart, or each would wait for the one before. */
        int32_t counts[4][256] = {{0}}, below[256], total = 0, largest = 0;
        byte table[256];
        int64_t i = 0;
        for (; i + 4 <= im->pixels; i += 4) {
            counts[0][from[i]]++;
            counts[1][from[i + 1]]++;
            counts[2][from[i + 2]]++;
            counts[3][from[i + 3]]++;
        }
        for (; i < im->pixels; i++)
            counts[0][from[i]]++;
        for (int v = 0; v < 256; v++) {
            const int32_t count = counts[0][v] + counts[1][v] + counts[2][v] + counts[3][v];
            below[v] = total;
            total += count;
            largest = count ? count : largest;
        }
        const int32_t step = (total - largest) / 255;
        if (!step) {
            memcpy(to, from, im->pixels);
            continue;
        }
        for (int v = 0; v < 256; v++) {
            const double place = (double)(below[v] + step / 2) / step;
            table[v] = (byte)(int)(place > 255 ? 255 : place);
        }
        look_up(from, to, table, im->pixels);
    }
}

static void posterize(const byte *restrict from, byte *restrict to, double value, const images *im)
{
    const byte kept = (byte)(256 - (1 << (8 - (int)value)));
    for (int64_t i = 0; i < im->channels * im->pixels; i++)
        to[i] = from[i] & kept;
}

static void solarize(const byte *restrict from, byte *restrict to, double value, const images *im)
{
    const int first = (int)value;
    for (int64_t i = 0; i < im->channels * im->pixels; i++)
        to[i] = from[i] >= first ? 255 - from[i] : from[i];
}

/* Pixels of a side from the -1 to 1 of grid_sample, within the centres of the outermost ones. */
static inline float place(float source, float side)
{
    float found = MULTIPLY_ADD(source + 1, side / 2, -0.5f);
    found = found > 0 ? found : 0;
    return found < side - 1 ? found : side - 1;
}

static inline float channel(uint32_t pixel, int shift)
{
    return (float)(int)(pixel >> shift & 255);
}

/* Put the channels of a pixel into one word, so that it is fetched once; the last row and column
   stand twice, as every pixel has a right and a lower neighbour then. */
static void pack(const byte *restrict from, const images *im)
{
    const int64_t pixels = im->pixels, line = im->width + 1;
    for (int64_t row = 0; row <= im->height; row++) {
        const byte *pixel = from + (row < im->height ? row : row - 1) * im->width;
        uint32_t *packed = im->packed + row * line;
        for (int64_t i = 0; i < im->width; i++)
            packed[i] = pixel[i];
        for (int64_t c = 1; c < im->channels; c++)
            for (int64_t i = 0; i < im->width; i++)
                packed[i] |= (uint32_t)pixel[c * pixels + i] << (8 * c);
        packed[im->width] = packed[im->width - 1];
    }
}

static void rotate(const byte *restrict from, byte *restrict to, double value, const images *im)
{
    const int64_t turn = ((int64_t)value + MOST_DEGREES) * im->pixels;
    const int32_t line = (int32_t)im->width + 1;
    const float width = (float)im->width, height = (float)im->height;
    pack(from, im);
    for (int64_t start = 0; start < im->pixels; start += STRIP) {
        const int strip = (int)(im->pixels - start < STRIP ? im->pixels - start : STRIP);
        const float *sources = im->sources + 2 * (turn + start);
        const byte *frame = im->frames + turn + start;
        float nw[STRIP], ne[STRIP], sw[STRIP], se[STRIP];
        uint32_t near[4][STRIP];
        int32_t corner[STRIP];
        for (int i = 0; i < strip; i++) {
            const float x = place(sources[2 * i], width), y = place(sources[2 * i + 1], height);
            const int32_t left = (int32_t)x, top = (int32_t)y;
            const float w = x - (float)left, e = 1 - w, n = y - (float)top, s = 1 - n;
            nw[i] = e * s;
            ne[i] = w * s;
            sw[i] = e * n;
            se[i] = w * n;
            corner[i] = top * line + left;
        }
        for (int i = 0; i < strip; i++) {
            const uint32_t *pixel = im->packed + corner[i];
            near[0][i] = pixel[0];
            near[1][i] = pixel[1];
            near[2][i] = pixel[line];
            near[3][i] = pixel[line + 1];
        }
        for (int64_t c = 0; c < im->channels; c++) {
            byte *out = to + c * im->pixels + start;
            const int shift = (int)(8 * c);
            for (int i = 0; i < strip; i++) {
                float sum = channel(near[0][i], shift) * nw[i];
                sum = MULTIPLY_ADD(channel(near[1][i], shift), ne[i], sum);
                sum = MULTIPLY_ADD(channel(near[2][i], shift), sw[i], sum);
                sum = MULTIPLY_ADD(channel(near[3][i], shift), se[i], sum);
                out[i] = (byte)((int)(sum + 1e-4f) * frame[i]);
            }
        }
    }
}

/* Shear lines of pixels: the one at ``i`` of a line comes from ``i + shift``. The steps are those
   to the next line and to the next pixel, among the images and where they are packed. */
static inline void shear(const byte *restrict from, byte *restrict to, double value,
                         const images *im, int lines, int length, const int steps[4])
{
    pack(from, im);
    for (int line = 0; line < lines; line++) {
        const double shift = value * (line + 0.5);
        const int move = (int)floor(shift), near = (int)floor(shift + 0.5);
        const float share = (float)(shift - move);
        for (int start = 0; start < length; start += STRIP) {
            const int strip = length - start < STRIP ? length - start : STRIP;
            int places[STRIP + 1];
            uint32_t pixels[STRIP + 1];
            for (int i = 0; i <= STRIP; i++) {
                int source = start + i + move;
                source = source > 0 ? source : 0;
                places[i] = line * steps[2] + (source < length ? source : length - 1) * steps[3];
            }
            for (int i = 0; i <= STRIP; i++)
                pixels[i] = im->packed[places[i]];
            for (int64_t c = 0; c < im->channels; c++) {
                const int bits = (int)(8 * c);
                byte made[STRIP];
                for (int i = 0; i < STRIP; i++) {
                    const float first = channel(pixels[i], bits);
                    const float second = channel(pixels[i + 1], bits);
                    const int source = start + i + near;
                    const int mixed = (int)MULTIPLY_ADD(second - first, share, first);
                    made[i] = (byte)(source >= 0 && source < length ? mixed : 0);
                }
                byte *out = to + c * im->pixels + line * steps[0] + start * steps[1];
                for (int i = 0; i < strip; i++)
                    out[i * steps[1]] = made[i];
            }
        }
    }
}

static void shear_x(const byte *restrict from, byte *restrict to, double value, const images *im)
{
    const int height = (int)im->height, width = (int)im->width;
    shear(from, to, value, im, height, width, (int[]){width, 1, width + 1, 1});
}

static void shear_y(const byte *restrict from, byte *restrict to, double value, const images *im)
{
    const int height = (int)im->height, width = (int)im->width;
    shear(from, to, value, im, width, height, (int[]){1, width, 1, width + 1});
}

static void translate(const byte *restrict from, byte *restrict to, int64_t across, int64_t down,
                      const images *im)
{
    const int64_t width = im->width, left = across < 0 ? -across : 0;
    const int64_t kept = width - (across < 0 ? -across : across);
    for (int64_t c = 0; c < im->channels; c++, from += im->pixels, to += im->pixels)
        for (int64_t row = 0; row < im->height; row++) {
            byte *line = to + row * width;
            memset(line, 0, width);
            if (row + down >= 0 && row + down < im->height)
                memcpy(line + left, from + (row + down) * width + left + across, kept);
        }
}

static void translate_x(const byte *restrict from, byte *restrict to, double value,
                        const images *im)
{
    translate(from, to, (int64_t)value, 0, im);
}

static void translate_y(const byte *restrict from, byte *restrict to, double value,
                        const images *im)
{
    translate(from, to, 0, (int64_t)value, im);
}

/* A pixel whose distance from a plainer version is multiplied by a factor. */
static inline byte enhance(int pixel, int plain, float factor)
{
    const float start = (float)plain, moved = start + factor * ((float)pixel - start);
    return (byte)(int)(moved < 0 ? 0 : moved > 255 ? 255 : moved);
}

/* ITU-R 601-2, in units of 2^-16. */
static inline int luma(const byte *pixel, const images *im)
{
    if (im->channels == 1)
        return pixel[0];
    const int red = pixel[0], green = pixel[im->pixels], blue = pixel[2 * im->pixels];
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16;
}

static void color(const byte *restrict from, byte *restrict to, double value, const images *im)
{
    for (int64_t i = 0; i < im->pixels; i++) {
        const int plain = luma(from + i, im);
        for (int64_t c = 0; c < im->channels; c++)
            to[c * im->pixels + i] = enhance(from[c * im->pixels + i], plain, (float)value);
    }
}

static void contrast(const byte *restrict from, byte *restrict to, double value, const images *im)
{
    int64_t total = 0;
    for (int64_t i = 0; i < im->pixels; i++)
        total += luma(from + i, im);
    const int plain = (int)((2 * total + im->pixels) / (2 * im->pixels));
    for (int64_t i = 0; i < im->channels * im->pixels; i++)
        to[i] = enhance(from[i], plain, (float)value);
}

static void brightness(const byte *restrict from, byte *restrict to, double value,
                       const images *im)
{
    for (int64_t i = 0; i < im->channels * im->pixels; i++)
        to[i] = enhance(from[i], 0, (float)value);
}

static void sharpness(const byte *restrict from, byte *restrict to, double value,
                      const images *im)
{
    const int64_t width = im->width;
    memcpy(to, from, im->channels * im->pixels); /* pixels at the border stay */
    for (int64_t c = 0; c < im->channels; c++, from += im->pixels, to += im->pixels)
        for (int64_t row = 1; row < im->height - 1; row++)
            for (int64_t col = 1; col < width - 1; col++) {
                const byte *pixel = from + row * width + col;
                const byte *up = pixel - width, *below = pixel + width;
                const int sum = up[-1] + up[0] + up[1] + pixel[-1] + 5 * pixel[0] + pixel[1] +
                                below[-1] + below[0] + below[1];
                to[row * width + col] = enhance(pixel[0], (2 * sum + 13) / 26, (float)value);
            }
}

/* In the order of OPERATIONS. */
static operation *const OPERATIONS[] = {
    autocontrast, equalize,    posterize,   rotate, solarize, shear_x,    shear_y,
    translate_x,  translate_y, color,       contrast, brightness, sharpness,
};
#define COUNT ((int64_t)(sizeof OPERATIONS / sizeof *OPERATIONS))

/* Whether an operation has a value that op_values gives; false for NaN. */
static int fits(int64_t op, double value, const images *im)
{
    const double size = fabs(value);
    if (op < 0 || OPERATIONS[op] == autocontrast || OPERATIONS[op] == equalize)
        return 1;
    if (OPERATIONS[op] == posterize)
        return value >= 0 && value <= 8 && value == floor(value);
    if (OPERATIONS[op] == rotate)
        return size <= MOST_DEGREES;
    if (OPERATIONS[op] == shear_x || OPERATIONS[op] == shear_y)
        return size <= 1;
    if (OPERATIONS[op] == translate_x)
        return size <= im->width;
    if (OPERATIONS[op] == translate_y)
        return size <= im->height;
    return value >= 0 && value <= 256;
}

/* See apply_ops in image_ops.py: x (B, C, H, W), ops and values (N, S), made (N, C, H, W), and a
   spare image. Returns 0, or 1 before it has written anything if an operation or value is none. */
int apply_ops(const byte *x, const int64_t *ops, const double *values, const float *sources,
              const byte *frames, uint32_t *packed, byte *spare, byte *made, int64_t batch,
              int64_t count, int64_t steps, int64_t channels, int64_t height, int64_t width)
{
    const images im = {channels, height, width, height * width, sources, frames, packed};
    const int64_t size = channels * im.pixels;
    for (int64_t i = 0; i < count * steps; i++)
        if (ops[i] < -1 || ops[i] >= COUNT || !fits(ops[i], values[i], &im))
            return 1;
    for (int64_t row = 0; row < count; row++, ops += steps, values += steps, made += size) {
        const byte *from = x + row % batch * size;
        int64_t left = 0;
        for (int64_t step = 0; step < steps; step++)
            left += ops[step] >= 0;
        if (!left)
            memcpy(made, from, size);
        for (int64_t step = 0; step < steps; step++)
            if (ops[step] >= 0) {
                byte *to = left-- % 2 ? made : spare; /* the last one writes what is made */
                OPERATIONS[ops[step]](from, to, values[step], &im);
                from = to;
            }
    }
    return 0;
}

/* See mix_chains in augmix.py: pixels (B, size), made (width, N, size), rest (N,), shares
   (N, width), mixed (N, size). Returns 0. */
int mix_chains(const byte *pixels, const byte *made, const float *rest, const float *shares,
               float *mixed, int64_t batch, int64_t count, int64_t width, int64_t size)
{
    for (int64_t row = 0; row < count; row++, mixed += size) {
        const byte *image = pixels + row % batch * size;
        for (int64_t i = 0; i < size; i++)
            mixed[i] = image[i] * rest[row];
        for (int64_t chain = 0; chain < width; chain++) {
            const byte *part = made + (chain * count + row) * size;
            const float share = shares[row * width + chain];
            for (int64_t i = 0; i < size; i++)
                mixed[i] = MULTIPLY_ADD((float)part[i], share, mixed[i]);
        }
    }
    return 0;
}
