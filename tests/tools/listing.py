"""Lines of `name dtype shape bytes` for tensors, as the tests of this crate compare them."""

NAMES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}


def line(name, dtype, shape, data):
    return f"{name}\t{NAMES[dtype]}\t{','.join(map(str, shape))}\t{data.hex()}"


def of_numpy(name, array):
    import numpy
    return line(name, array.dtype.name, array.shape, numpy.ascontiguousarray(array).tobytes())


def of_torch(name, tensor):
    import torch
    flat = tensor.detach().contiguous().reshape(-1)
    data = bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""
    return line(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), data)


def flat(value, name=""):
    """The tensors of nested dictionaries and lists, with names joined by dots."""
    import torch
    if isinstance(value, torch.Tensor):
        yield of_torch(name, value)
    elif isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from flat(inner, f"{name}.{key}" if name else str(key))
