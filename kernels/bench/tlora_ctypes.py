"""The C ABI (include/tlora.h) for Python, as far as the benches need it."""
import ctypes as c

import numpy as np

ABI = 2
BACKENDS = {"cpu": 0, "cuda": 1}
COMPUTE = {"fp32": 0, "bf16": 1}
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]  # by TL_*_PROJ
WEIGHTS, MOMENT1, MOMENT2, GRADIENT = range(4)  # TL_STATE_*
IGNORE = -100


def struct(**fields):
    return type("Struct", (c.Structure,), {"_fields_": list(fields.items())})


ModelOptions = struct(struct_size=c.c_uint32, backend=c.c_int32, device=c.c_int32, threads=c.c_int32, compute=c.c_int32,
                      reserved0=c.c_int32, reserved1=c.c_int64)
AdapterConfig = struct(struct_size=c.c_uint32, rank=c.c_int32, alpha=c.c_float, dropout=c.c_float, rslora=c.c_int32,
                       target_modules=c.c_uint32, seed=c.c_uint64, reserved=c.c_uint64)
TensorDesc = struct(layer=c.c_int32, module=c.c_int32, matrix=c.c_int32, reserved=c.c_int32, rows=c.c_int64,
                    columns=c.c_int64, offset=c.c_int64)
Segment = struct(slot=c.c_uint64, start=c.c_int64, length=c.c_int32, loss_scale=c.c_float, dropout_key=c.c_uint64)
SegmentResult = struct(loss_sum=c.c_double, loss_tokens=c.c_int32, correct=c.c_int32)


def pointer(array):
    return array.ctypes.data_as(c.c_void_p)


class Library:
    def __init__(self, path):
        self.so = c.CDLL(path)
        self.so.tl_last_error.restype = c.c_int64
        if self.so.tl_abi_version() != ABI:
            raise RuntimeError(f"{path} has ABI {self.so.tl_abi_version()}, this file is for {ABI}")

    def call(self, name, *arguments):
        if getattr(self.so, name)(*arguments) == 0:
            return
        text = c.create_string_buffer(4096)
        length = self.so.tl_last_error(text, c.c_int64(4096))
        raise RuntimeError(f"{name}: {text.raw[:min(length, 4096)].decode()}")


class Model:
    def __init__(self, library, folder, backend="cuda", compute="bf16", device=0, threads=0):
        self.library, self.handle = library, c.c_uint64()
        name = folder.encode()
        options = ModelOptions(c.sizeof(ModelOptions), BACKENDS[backend], device, threads, COMPUTE[compute])
        library.call("tl_model_open", name, c.c_int64(len(name)), c.byref(options), c.byref(self.handle))

    def close(self):
        self.library.call("tl_model_close", self.handle)

    def add(self, rank, alpha, modules=MODULES, dropout=0.0, seed=0):
        bits = sum(1 << MODULES.index(name) for name in modules)
        config = AdapterConfig(c.sizeof(AdapterConfig), rank, alpha, dropout, 0, bits, seed)
        slot = c.c_uint64()
        self.library.call("tl_adapter_add", self.handle, c.byref(config), c.byref(slot))
        return slot

    def layout(self, slot):
        """(layer, module name, "A" or "B", shape, offset in the flat state) of each matrix, in order."""
        count = c.c_int32()
        self.library.call("tl_adapter_layout", self.handle, slot, None, c.c_int32(0), c.byref(count))
        tensors = (TensorDesc * count.value)()
        self.library.call("tl_adapter_layout", self.handle, slot, tensors, count, c.byref(count))
        return [(t.layer, MODULES[t.module], "AB"[t.matrix], (t.rows, t.columns), t.offset) for t in tensors]

    def elements(self, slot):
        _, _, _, (rows, columns), offset = self.layout(slot)[-1]
        return offset + rows * columns

    def get(self, slot, state):
        values = np.empty(self.elements(slot), np.float32)
        self.library.call("tl_adapter_export", self.handle, slot, c.c_int32(state), pointer(values), c.c_int64(values.size))
        return values

    def set(self, slot, state, values):
        values = np.ascontiguousarray(values, np.float32)
        self.library.call("tl_adapter_import", self.handle, slot, c.c_int32(state), pointer(values), c.c_int64(values.size))

    def forward_backward(self, slot, sequences, loss_scale):
        """sequences: (tokens, targets) pairs. Returns the sum of the token losses."""
        segments, start = [], 0
        for i, (tokens, _) in enumerate(sequences):
            segments.append(Segment(slot, start, len(tokens), loss_scale, i))
            start += len(tokens)
        tokens = np.concatenate([s[0] for s in sequences]).astype(np.int32)
        targets = np.concatenate([s[1] for s in sequences]).astype(np.int32)
        results = (SegmentResult * len(segments))()
        self.library.call("tl_forward_backward", self.handle, pointer(tokens), pointer(targets), c.c_int64(start),
                          (Segment * len(segments))(*segments), c.c_int32(len(segments)), results)
        return sum(r.loss_sum for r in results)
