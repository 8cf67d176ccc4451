/* tlora.h — the C ABI of the tLoRA engine.
 *
 * Everything that crosses this border is a number, an opaque handle or a buffer owned by the caller: no callbacks and no
 * pointers into the library, so a host process needs FFI permission for one path only.
 *
 * Conventions
 *   - Every function returns a tl_status. Outputs are written only when it is TL_OK. tl_last_error gives the text of the
 *     calling thread's last failure: it names the field, the rule and the value.
 *   - Handles are non-zero 64-bit numbers that are never reused within a process.
 *   - Strings are UTF-8 with a length in bytes; they need no terminator. JSON goes out only, as text.
 *   - Structs are little-endian with natural alignment and no implicit padding; `struct_size` must equal the size
 *     declared here, so that a caller built against another version is refused instead of misread.
 *   - Calls on one model must not overlap in time. A model may be used from any thread.
 *   - "flat" adapter state is fp32 in the order that tl_adapter_layout describes.
 */
#ifndef TLORA_H
#define TLORA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TL_ABI_VERSION 2
#if defined(__GNUC__)
#define TL_API __attribute__((visibility("default")))
#else
#define TL_API
#endif

typedef int32_t tl_status;
enum {
  TL_OK = 0,
  TL_INVALID_ARGUMENT = 1,   /* a field breaks its rule; nothing was changed */
  TL_NOT_FOUND = 2,          /* a file, tensor or handle does not exist */
  TL_UNSUPPORTED = 3,        /* a well-formed request that this build or device cannot do */
  TL_BAD_FILE = 4,           /* a model file is malformed, truncated or hostile */
  TL_OUT_OF_MEMORY = 5,      /* the request does not fit; nothing was changed */
  TL_INTERNAL = 6            /* a bug; the model should be closed */
};

enum { TL_BACKEND_CPU = 0, TL_BACKEND_CUDA = 1 };

/* TL_COMPUTE_FP32: activations and working weights in fp32.
 * TL_COMPUTE_BF16: bf16 values at the rounding points of the CUDA backend, fp32 accumulation; fp32 master adapters. */
enum { TL_COMPUTE_FP32 = 0, TL_COMPUTE_BF16 = 1 };

enum { TL_ARCH_LLAMA = 0, TL_ARCH_QWEN2 = 1, TL_ARCH_QWEN3 = 2, TL_ARCH_MISTRAL = 3 };

/* Bits of target_modules, and values of tl_tensor_desc.module. */
enum { TL_Q_PROJ = 0, TL_K_PROJ = 1, TL_V_PROJ = 2, TL_O_PROJ = 3, TL_GATE_PROJ = 4, TL_UP_PROJ = 5, TL_DOWN_PROJ = 6 };

#define TL_MAX_RANK 256
#define TL_IGNORE_INDEX (-100)

TL_API int32_t tl_abi_version(void);

/* Copies the last error text of this thread (at most capacity bytes, no terminator). Returns its full length in bytes. */
TL_API int64_t tl_last_error(char* text, int64_t capacity);

/* JSON: {"abi","build_id","compiler","flags","cpu":{"name","threads","simd"},"backends":[{"name","available","reason",
 * "devices":[…]}]}. Writes at most capacity bytes; *length gets the full length. build_id changes with any change of code,
 * compiler or flags: it is part of the identity under which a resume is bit-exact. */
TL_API tl_status tl_build_info(char* json, int64_t capacity, int64_t* length);

/* ---- models ------------------------------------------------------------------------------------------------------- */

typedef struct {
  uint32_t struct_size;   /* 32 */
  int32_t backend;        /* TL_BACKEND_* */
  int32_t device;         /* ordinal; 0 for the CPU */
  int32_t threads;        /* CPU worker threads; 0 = all that the process may use. Never changes a result bit */
  int32_t compute;        /* TL_COMPUTE_* */
  int32_t reserved0;
  int64_t reserved1;
} tl_model_options;

/* Opens a Hugging Face folder: config.json plus model.safetensors or model.safetensors.index.json with its shards
 * (bf16, fp16 or fp32 tensors). Weights are mapped, checked against the config's shapes, and never written. */
TL_API tl_status tl_model_open(const char* folder, int64_t folder_length, const tl_model_options* options, uint64_t* model);
TL_API tl_status tl_model_close(uint64_t model);

typedef struct {
  uint32_t struct_size;   /* 80 */
  int32_t architecture;   /* TL_ARCH_* */
  int32_t hidden;
  int32_t layers;
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t intermediate;
  int32_t vocab;
  int32_t max_positions;
  int32_t tied_embeddings;
  int32_t compute;
  int64_t parameters;     /* of the base, embedding included once when tied */
  int64_t weight_bytes;   /* resident bytes of the frozen base in this process */
  int64_t adapter_bytes;  /* resident bytes of all slots now */
  int64_t workspace_bytes;/* resident bytes of activations and scratch now */
} tl_model_info;
TL_API tl_status tl_model_describe(uint64_t model, tl_model_info* info);

/* What backward recomputes instead of keeping it from forward. Never changes a result bit. */
enum {
  TL_RECOMPUTE_NOTHING = 0,  /* elementwise only: norms, rope, silu */
  TL_RECOMPUTE_MLP = 1,      /* gate and up of every layer: about 13% more work, 60% less kept */
  TL_RECOMPUTE_LAYER = 2     /* all of a layer but the down projection: about 40% more work, 90% less kept */
};

/* What a step would need, before it runs. Bytes of the device the model is on. */
typedef struct {
  uint32_t struct_size;   /* 80 */
  int32_t max_segment;    /* longest segment, tokens */
  int64_t tokens;         /* tokens of one micro-batch */
  int64_t loss_tokens;    /* rows that carry a loss, of those */
  int64_t adapter_parameters; /* sum over slots; 0 when they are there already and only the step is asked for */
  int32_t adapters;
  int32_t strip_columns;  /* sum over slots of ceil16(rank) */
  int32_t dropout;        /* 1 when any of the slots has dropout, else 0 */
  int32_t recompute;      /* out: TL_RECOMPUTE_* that the step would run with: the first that fits, or the last */
  int64_t step_bytes;     /* out: activations and scratch of the step under that policy */
  int64_t adapter_bytes;  /* out: weights, gradient, moments and working copies of the slots */
  int64_t available_bytes;/* out: what step and adapters may take in all on this device beside the base and the slots that
                             are there now; INT64_MAX when the backend does not know */
  int32_t fits;           /* out: step_bytes + adapter_bytes <= available_bytes */
  int32_t reserved;
} tl_memory_request;
TL_API tl_status tl_memory_estimate(uint64_t model, tl_memory_request* request);

/* ---- adapter slots ------------------------------------------------------------------------------------------------ */

typedef struct {
  uint32_t struct_size;    /* 40 */
  int32_t rank;            /* 1..TL_MAX_RANK */
  float alpha;             /* > 0; scale = alpha / rank, or alpha / sqrt(rank) with rslora */
  float dropout;           /* [0, 1) on the adapter's input; inverted scaling */
  int32_t rslora;          /* 0 or 1 */
  uint32_t target_modules; /* bit set of 1 << TL_*_PROJ, at least one */
  uint64_t seed;           /* keys initialisation (A: Kaiming uniform with a = sqrt(5), i.e. U(-1/sqrt(in), 1/sqrt(in)),
                              as PEFT; B: 0) and dropout, by Philox4x32-10 */
  uint64_t reserved;
} tl_adapter_config;

/* Adds an adapter with fresh weights, zero gradient and zero moments. Takes effect for the next call; touches no other slot. */
TL_API tl_status tl_adapter_add(uint64_t model, const tl_adapter_config* config, uint64_t* slot);
TL_API tl_status tl_adapter_remove(uint64_t model, uint64_t slot);

/* An idle slot: its moments leave the device for (pinned) host memory and its gradient's memory is freed; its weights stay. The gradient
 * must be zero (after tl_optimizer_step or tl_adapter_clear_gradient). An offloaded slot cannot train (TL_INVALID_ARGUMENT)
 * until it is restored; it can be exported, evaluated and removed. The copies run behind the call, beside later steps of
 * other slots. On the CPU both calls only change what is allowed. */
TL_API tl_status tl_adapter_offload(uint64_t model, uint64_t slot);
TL_API tl_status tl_adapter_restore(uint64_t model, uint64_t slot);

typedef struct {
  int32_t layer;
  int32_t module;          /* TL_*_PROJ */
  int32_t matrix;          /* 0 = A [rank, in], 1 = B [out, rank] */
  int32_t reserved;
  int64_t rows;
  int64_t columns;
  int64_t offset;          /* elements from the start of the flat state */
} tl_tensor_desc;          /* 40 bytes; row-major */
/* Order: layer ascending, module ascending, A before B, dense (no gaps). *count gets the number of tensors;
 * writes min(capacity, *count) entries. */
TL_API tl_status tl_adapter_layout(uint64_t model, uint64_t slot, tl_tensor_desc* tensors, int32_t capacity, int32_t* count);

enum { TL_STATE_WEIGHTS = 0, TL_STATE_MOMENT1 = 1, TL_STATE_MOMENT2 = 2, TL_STATE_GRADIENT = 3 };
/* elements must equal the flat size. Import validates finiteness (TL_INVALID_ARGUMENT names the first bad element). */
TL_API tl_status tl_adapter_export(uint64_t model, uint64_t slot, int32_t state, float* values, int64_t elements);
TL_API tl_status tl_adapter_import(uint64_t model, uint64_t slot, int32_t state, const float* values, int64_t elements);

/* ---- steps -------------------------------------------------------------------------------------------------------- */

/* One sequence of a packed batch: rows [start, start + length) of tokens and targets. Segments lie in the batch in order,
 * without overlap and without gaps. Positions (RoPE, causal mask) begin at 0 in every segment; no segment sees another.
 * Segments of one slot must come in that job's data order; their gradients are added in that order, one whole
 * sequence at a time, also across calls. */
typedef struct {
  uint64_t slot;           /* 0 = frozen base only (evaluation) */
  int64_t start;
  int32_t length;          /* 1..max_positions */
  float loss_scale;        /* dL/d(sum of token losses): 1 / (the job's loss tokens in the whole optimizer step) */
  uint64_t dropout_key;    /* counter of this sequence within its job, e.g. step * batch + index: the dropout mask depends
                              on (adapter seed, dropout_key, layer, module, position, column) only */
} tl_segment;              /* 32 bytes */

typedef struct {
  double loss_sum;         /* sum of token cross-entropies (nats), fp64, in position order; unscaled */
  int32_t loss_tokens;     /* targets != TL_IGNORE_INDEX */
  int32_t correct;         /* of those, rows whose argmax (lowest id wins ties) is the target */
} tl_segment_result;       /* 16 bytes */

/* tokens: int32[n] in 0..vocab-1. targets: int32[n], the id to predict at each row (already shifted) or TL_IGNORE_INDEX.
 * Forward + backward; adds each adapter's gradient (fp32) to its slot. Frozen weights get none. A non-finite value of one
 * slot never reaches another. Every slot of the segment table must be non-zero. */
TL_API tl_status tl_forward_backward(uint64_t model, const int32_t* tokens, const int32_t* targets, int64_t n,
                                     const tl_segment* segments, int32_t segment_count, tl_segment_result* results);

/* Forward only, dropout off; results as above. */
TL_API tl_status tl_evaluate(uint64_t model, const int32_t* tokens, const int32_t* targets, int64_t n,
                             const tl_segment* segments, int32_t segment_count, tl_segment_result* results);

/* Forward only, dropout off. rows: int64[row_count], ascending row numbers; logits: fp32[row_count, vocab]. */
TL_API tl_status tl_logits(uint64_t model, const int32_t* tokens, int64_t n, const tl_segment* segments,
                           int32_t segment_count, const int64_t* rows, int64_t row_count, float* logits);

/* AdamW (Loshchilov & Hutter 2019, decoupled decay, bias-corrected as torch.optim.AdamW) on the accumulated gradient,
 * after clipping by the slot's global L2 norm as torch.nn.utils.clip_grad_norm_. Clears the gradient. */
typedef struct {
  uint64_t slot;
  int64_t step;            /* 1-based count of this slot's optimizer steps, for bias correction */
  float learning_rate;
  float beta1;
  float beta2;
  float epsilon;
  float weight_decay;
  float max_grad_norm;     /* 0 = no clipping */
} tl_optimizer_item;       /* 40 bytes */

typedef struct {
  double grad_norm;        /* before clipping */
  int32_t finite;          /* 0: a gradient or an updated weight was not finite; weights and moments are unchanged */
  int32_t reserved;
} tl_optimizer_result;     /* 16 bytes */

TL_API tl_status tl_optimizer_step(uint64_t model, const tl_optimizer_item* items, int32_t count,
                                   tl_optimizer_result* results);

/* Sets the slot's accumulated gradient to zero (a step abandoned half-way). */
TL_API tl_status tl_adapter_clear_gradient(uint64_t model, uint64_t slot);

#ifdef __cplusplus
}
#endif
#endif
