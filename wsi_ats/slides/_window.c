/* Decode only a window of a baseline JPEG tile, with the pixels that a full decode gives.
 *
 * What a window saves: the inverse transform, upsampling and colour conversion outside of it, and all below it.
 * What it cannot save: the entropy coding above and beside it, since one coefficient's code begins where the last
 * one's ends.
 *
 * Built only where there is a C compiler and libjpeg-turbo; wsi_ats/slides/window.py does without it elsewhere.
 */
#define PY_SSIZE_T_CLEAN
#ifndef Py_GIL_DISABLED
#define Py_LIMITED_API 0x030b0000 /* 3.11, the first with the buffer protocol: one build serves all later ones */
#endif
#include <Python.h>

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 2001000
#error "libjpeg-turbo 2.1 or newer is needed: others have no jpeg_crop_scanline, or one with faults"
#endif

/* Upsampling of chroma looks one sample, so two pixels, to each side. */
#define MARGIN 2

typedef enum { DONE, UNSUPPORTED, FAILED } Outcome;

typedef struct {
    struct jpeg_decompress_struct decoder;
    struct jpeg_error_mgr errors;
    jmp_buf failure;
    char message[JMSG_LENGTH_MAX];

    Py_buffer data, tables;
    J_COLOR_SPACE colours;
    int tile_width, tile_height; /* in px, as the stream must have it */
    int x, y, width, height;     /* the window, in px of the tile */
    Py_buffer pixels;            /* (height, width, 3) bytes */
} Job;

static void
fail(j_common_ptr decoder)
{
    Job *job = decoder->client_data;
    job->errors.format_message(decoder, job->message);
    longjmp(job->failure, 1);
}

/* libjpeg paints over damage and warns: level -1. A warning ends the decode, since the pixels are made up. Other
 * messages are for tracing; none of them is printed. */
static void
warn(j_common_ptr decoder, int level)
{
    if (level < 0)
        fail(decoder);
}

/* The streams whose windows are known to have the pixels of a full decode. */
static int
is_supported(const Job *job)
{
    const struct jpeg_decompress_struct *decoder = &job->decoder;
    const jpeg_component_info *parts = decoder->comp_info;
    if (decoder->image_width != (JDIMENSION)job->tile_width ||
        decoder->image_height != (JDIMENSION)job->tile_height)
        return 0;
    if (decoder->data_precision != 8 || decoder->num_components != 3 || decoder->progressive_mode ||
        decoder->arith_code || decoder->comps_in_scan != 3)
        return 0;
    for (int i = 1; i < 3; i++)
        if (parts[i].h_samp_factor != 1 || parts[i].v_samp_factor != 1)
            return 0;
    return parts[0].h_samp_factor <= 2 && parts[0].v_samp_factor <= 2;
}

/* Whole columns of MCUs around the window, and never less than one full column where the tile has one: libjpeg
 * upsamples very narrow pictures in another way. */
static void
choose_columns(const Job *job, JDIMENSION *left, JDIMENSION *span)
{
    int column = DCTSIZE * job->decoder.max_h_samp_factor;
    int begin = job->x > MARGIN ? (job->x - MARGIN) / column * column : 0;
    int end = (job->x + job->width + MARGIN + column - 1) / column * column;
    if (end > job->tile_width)
        end = job->tile_width;
    if (begin > 0 && end - begin < column)
        begin -= column;
    *left = (JDIMENSION)begin;
    *span = (JDIMENSION)(end - begin);
}

/* Room for a scanline. libjpeg's SIMD code writes past the cache to where a multiple of 32 bytes begins, which takes
 * half as long again for rows this short: begin elsewhere. */
static JSAMPROW
new_row(Job *job, JDIMENSION span)
{
    j_common_ptr decoder = (j_common_ptr)&job->decoder;
    char *room = decoder->mem->alloc_small(decoder, JPOOL_IMAGE, (size_t)span * 3 + 64);
    return (JSAMPROW)(room + (40 - (uintptr_t)room % 32));
}

/* Runs without the interpreter's lock. */
static Outcome
decode_rows(Job *job)
{
    struct jpeg_decompress_struct *decoder = &job->decoder;
    JDIMENSION left, span;
    JDIMENSION top = job->y > MARGIN ? (JDIMENSION)(job->y - MARGIN) : 0;
    JSAMPROW row;

    if (setjmp(job->failure))
        return FAILED;
    jpeg_create_decompress(decoder);
    if (job->tables.len > 0) {
        jpeg_mem_src(decoder, job->tables.buf, (unsigned long)job->tables.len);
        jpeg_read_header(decoder, FALSE);
    }
    jpeg_mem_src(decoder, job->data.buf, (unsigned long)job->data.len);
    jpeg_read_header(decoder, TRUE);
    if (!is_supported(job))
        return UNSUPPORTED;
    decoder->jpeg_color_space = job->colours;
    decoder->out_color_space = JCS_RGB;
    jpeg_start_decompress(decoder);

    choose_columns(job, &left, &span);
    jpeg_crop_scanline(decoder, &left, &span);
    row = new_row(job, span);
    if (top > 0)
        jpeg_skip_scanlines(decoder, top);
    while (decoder->output_scanline < (JDIMENSION)(job->y + job->height)) {
        Py_ssize_t line = (Py_ssize_t)decoder->output_scanline - job->y;
        jpeg_read_scanlines(decoder, &row, 1);
        if (line >= 0)
            memcpy((char *)job->pixels.buf + line * job->pixels.strides[0], row + (job->x - (int)left) * 3,
                   (size_t)job->width * 3);
    }
    return DONE;
}

static Outcome
run(Job *job)
{
    memset(&job->decoder, 0, sizeof job->decoder); /* so that it can be destroyed even if never created */
    job->message[0] = '\0';
    job->decoder.err = jpeg_std_error(&job->errors);
    job->errors.error_exit = fail;
    job->errors.emit_message = warn;
    job->decoder.client_data = job;
    Outcome outcome = decode_rows(job);
    jpeg_destroy_decompress(&job->decoder);
    return outcome;
}

/* Raises ValueError where `pixels` is not an array to write to, or the window not inside of the tile. */
static int
take_window(Job *job)
{
    const Py_buffer *pixels = &job->pixels;
    if (pixels->ndim != 3 || pixels->itemsize != 1 || pixels->shape[2] != 3 || pixels->strides[2] != 1 ||
        pixels->strides[1] != 3 || pixels->shape[0] > JPEG_MAX_DIMENSION || pixels->shape[1] > JPEG_MAX_DIMENSION) {
        PyErr_SetString(PyExc_ValueError, "pixels must be (height, width, 3) bytes, each row without gaps");
        return 0;
    }
    job->height = (int)pixels->shape[0];
    job->width = (int)pixels->shape[1];
    if (job->x < 0 || job->y < 0 || job->width < 1 || job->height < 1 || job->x > job->tile_width - job->width ||
        job->y > job->tile_height - job->height) {
        PyErr_Format(PyExc_ValueError, "a window of %d x %d px at x=%d, y=%d is not inside a tile of %d x %d px",
                     job->width, job->height, job->x, job->y, job->tile_width, job->tile_height);
        return 0;
    }
    return 1;
}

static PyObject *
decode_into(Job *job)
{
    Outcome outcome;
    if (!take_window(job))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    outcome = run(job);
    Py_END_ALLOW_THREADS
    if (outcome == FAILED) {
        PyErr_SetString(PyExc_ValueError, job->message);
        return NULL;
    }
    return PyBool_FromLong(outcome == DONE);
}

PyDoc_STRVAR(decode_doc,
"decode(data, tables, colourspace, tile_width, tile_height, x, y, pixels) -> bool\n\n"
"Decode the window of a JPEG stream that begins at (x, y) and has the size of `pixels`, (height, width, 3) uint8.\n"
"tables: the abbreviated stream of TIFF's JPEGTables, or b''; colourspace: that of the stream, 'RGB' or 'YCBCR'.\n"
"Returns whether it could: False for streams of another size than the tile, and for others than sequential\n"
"Huffman-coded ones of three 8-bit components in one scan. Raises ValueError, with libjpeg's message, where the\n"
"stream is damaged above or in the window; `pixels` hold anything then.");

static PyObject *
decode(PyObject *module, PyObject *args)
{
    Job job;
    const char *colours;
    PyObject *pixels, *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*siiiiO:decode", &job.data, &job.tables, &colours, &job.tile_width,
                          &job.tile_height, &job.x, &job.y, &pixels))
        return NULL;
    job.colours = strcmp(colours, "RGB") == 0 ? JCS_RGB : strcmp(colours, "YCBCR") == 0 ? JCS_YCbCr : JCS_UNKNOWN;
    if (job.colours == JCS_UNKNOWN)
        PyErr_Format(PyExc_ValueError, "colourspace '%s' is neither RGB nor YCBCR", colours);
    else if (PyObject_GetBuffer(pixels, &job.pixels, PyBUF_STRIDES | PyBUF_WRITABLE) == 0) {
        result = decode_into(&job);
        PyBuffer_Release(&job.pixels);
    }
    PyBuffer_Release(&job.data);
    PyBuffer_Release(&job.tables);
    return result;
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_VARARGS, decode_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_window",
    .m_doc = "Windows of JPEG tiles, decoded by libjpeg-turbo.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__window(void)
{
    return PyModuleDef_Init(&definition);
}
