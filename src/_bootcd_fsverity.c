/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs-verity digests of buffers: the inner loop of bootcd.formats.fsverity, which explains the format and does the same
 * with hashlib where this module is not built. Stateless, so that any number of threads may call it; the interpreter
 * lock is released while more than one block is hashed.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#include <openssl/evp.h>

#define BLOCK_SIZE 4096
#define DIGEST_MAX 64
#define DESCRIPTOR_SIZE 256

struct algorithm {
    int id;
    size_t digest_size;
    const EVP_MD *md;
};

/* Digests of the blocks of data, the last of which is padded with zeros. out has room for all of them and may be data
 * itself: digest i is written after block i was read and never reaches beyond it. Returns 0, or -1 when libcrypto
 * fails. Runs without the interpreter lock. */
static int
hash_blocks(EVP_MD_CTX *ctx, const struct algorithm *alg, const unsigned char *data, size_t size, unsigned char *out)
{
    unsigned char padded[BLOCK_SIZE];

    while (size > 0) {
        size_t used = size < BLOCK_SIZE ? size : BLOCK_SIZE;
        const unsigned char *block = data;

        if (used < BLOCK_SIZE) {
            memcpy(padded, data, used);
            memset(padded + used, 0, BLOCK_SIZE - used);
            block = padded;
        }
        if (!EVP_DigestInit_ex(ctx, alg->md, NULL) || !EVP_DigestUpdate(ctx, block, BLOCK_SIZE) ||
            !EVP_DigestFinal_ex(ctx, out, NULL))
            return -1;
        data += used;
        size -= used;
        out += alg->digest_size;
    }
    return 0;
}

static size_t
count_blocks(size_t size)
{
    return size / BLOCK_SIZE + (size % BLOCK_SIZE != 0);
}

/* The digest of data, into out. level has room for the digests of its blocks. */
static int
measure_buffer(EVP_MD_CTX *ctx, const struct algorithm *alg, const unsigned char *data, size_t size,
               unsigned char *level, unsigned char *out)
{
    unsigned char descriptor[DESCRIPTOR_SIZE] = {0};
    size_t used = count_blocks(size) * alg->digest_size;

    if (hash_blocks(ctx, alg, data, size, level) < 0)
        return -1;
    while (used > alg->digest_size) {
        if (hash_blocks(ctx, alg, level, used, level) < 0)
            return -1;
        used = count_blocks(used) * alg->digest_size;
    }
    descriptor[0] = 1;
    descriptor[1] = (unsigned char)alg->id;
    descriptor[2] = 12;
    for (int i = 0; i < 8; i++)
        descriptor[8 + i] = (unsigned char)((uint64_t)size >> (8 * i));
    memcpy(descriptor + 16, level, used);
    if (!EVP_DigestInit_ex(ctx, alg->md, NULL) || !EVP_DigestUpdate(ctx, descriptor, sizeof descriptor) ||
        !EVP_DigestFinal_ex(ctx, out, NULL))
        return -1;
    return 0;
}

/* The algorithm with the kernel's number id, or -1 with an exception set. */
static int
find_algorithm(PyObject *module, int id, struct algorithm *alg)
{
    EVP_MD **digests = PyModule_GetState(module);

    if (id != 1 && id != 2) {
        PyErr_Format(PyExc_ValueError, "unknown fs-verity algorithm %d", id);
        return -1;
    }
    alg->id = id;
    alg->digest_size = id == 1 ? 32 : 64;
    alg->md = digests[id - 1];
    return 0;
}

static PyObject *
call(PyObject *module, PyObject *args, const char *format, int whole_tree)
{
    struct algorithm alg;
    Py_buffer data;
    EVP_MD_CTX *ctx = NULL;
    PyObject *result = NULL;
    unsigned char *level = NULL, *out;
    size_t size, level_size;
    int id, failed;

    if (!PyArg_ParseTuple(args, format, &data, &id))
        return NULL;
    if (find_algorithm(module, id, &alg) < 0)
        goto done;
    size = (size_t)data.len;
    /* At most size / 4096 + 1 digests of 64 bytes: cannot overflow, since data.len is a Py_ssize_t. */
    level_size = count_blocks(size) * alg.digest_size;
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(whole_tree ? alg.digest_size : level_size));
    if (result == NULL)
        goto done;
    out = (unsigned char *)PyBytes_AS_STRING(result);
    if (whole_tree && (level = PyMem_RawMalloc(level_size + 1)) == NULL) {
        PyErr_NoMemory();
        Py_CLEAR(result);
        goto done;
    }
    if ((ctx = EVP_MD_CTX_new()) == NULL) {
        PyErr_NoMemory();
        Py_CLEAR(result);
        goto done;
    }
    PyThreadState *saved = size > BLOCK_SIZE ? PyEval_SaveThread() : NULL;
    if (whole_tree)
        failed = measure_buffer(ctx, &alg, data.buf, size, level, out);
    else
        failed = hash_blocks(ctx, &alg, data.buf, size, out);
    if (saved != NULL)
        PyEval_RestoreThread(saved);
    if (failed) {
        PyErr_SetString(PyExc_RuntimeError, "libcrypto cannot compute the digest");
        Py_CLEAR(result);
    }
done:
    EVP_MD_CTX_free(ctx);
    PyMem_RawFree(level);
    PyBuffer_Release(&data);
    return result;
}

static PyObject *
py_measure(PyObject *module, PyObject *args)
{
    return call(module, args, "y*i:measure", 1);
}

static PyObject *
py_hash_blocks(PyObject *module, PyObject *args)
{
    return call(module, args, "y*i:hash_blocks", 0);
}

static int
module_exec(PyObject *module)
{
    static const char *const names[2] = {"SHA256", "SHA512"};
    EVP_MD **digests = PyModule_GetState(module);

    for (int i = 0; i < 2; i++) {
        digests[i] = EVP_MD_fetch(NULL, names[i], NULL);
        if (digests[i] == NULL || EVP_MD_get_size(digests[i]) != (i == 0 ? 32 : DIGEST_MAX)) {
            PyErr_Format(PyExc_ImportError, "libcrypto has no %s", names[i]);
            return -1;
        }
    }
    return 0;
}

static void
module_free(void *module)
{
    EVP_MD **digests = PyModule_GetState(module);

    if (digests != NULL)
        for (int i = 0; i < 2; i++) {
            EVP_MD_free(digests[i]);
            digests[i] = NULL;
        }
}

static PyMethodDef methods[] = {
    {"measure", py_measure, METH_VARARGS,
     "measure(data, algorithm_id) -> bytes\n\nThe fs-verity digest of data; 1 is SHA-256, 2 is SHA-512."},
    {"hash_blocks", py_hash_blocks, METH_VARARGS,
     "hash_blocks(data, algorithm_id) -> bytes\n\nThe digests of the blocks of 4096 bytes, the last one padded with "
     "zeros, concatenated."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_bootcd_fsverity",
    .m_doc = "The inner loop of bootcd.formats.fsverity.",
    .m_size = 2 * sizeof(EVP_MD *),
    .m_methods = methods,
    .m_slots = slots,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__bootcd_fsverity(void)
{
    return PyModuleDef_Init(&definition);
}
