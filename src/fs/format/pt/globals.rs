//! The names that a pickle of tensors may ask for, and what each means here.

#![forbid(unsafe_code)]

use crate::tensor::DType;

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Callable {
    /// A dictionary, of whatever class.
    Dict,
    /// Its first argument, as for a parameter around a tensor.
    Same,
    /// A tensor of a storage; with its dtype among the arguments, or with that of the storage.
    Tensor { typed: bool },
    /// A call of another one.
    FromType,
    /// The class of a storage; `None` for bytes of any dtype.
    Storage(Option<DType>),
    /// A dtype.
    DType(DType),
    /// Something that says nothing of tensors.
    Opaque,
}

/// What a name means; `None` where no tensor needs it.
pub(super) fn find(module: &str, name: &str) -> Option<Callable> {
    Some(match (module, name) {
        ("collections", "OrderedDict" | "Counter" | "defaultdict") => Callable::Dict,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Callable::Tensor { typed: false },
        ("torch._utils", "_rebuild_tensor_v3") => Callable::Tensor { typed: true },
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Callable::Same,
        ("torch._tensor", "_rebuild_from_type_v2") => Callable::FromType,
        ("torch", "Size") | ("torch.nn.parameter", "Parameter") => Callable::Same,
        ("torch", "Tensor" | "device") => Callable::Opaque,
        ("builtins" | "__builtin__", "set" | "frozenset" | "complex" | "bytearray" | "dict") => {
            Callable::Opaque
        }
        ("_codecs", "encode") => Callable::Opaque,
        ("torch.storage", "UntypedStorage") | ("torch", "UntypedStorage") => Callable::Storage(None),
        ("torch" | "torch.cuda", name) if name.ends_with("Storage") => {
            Callable::Storage(Some(STORAGES.iter().find(|(storage, _)| *storage == name)?.1))
        }
        ("torch", name) => Callable::DType(DTYPES.iter().find(|(dtype, _)| *dtype == name)?.1),
        _ => return None,
    })
}

/// PyTorch's storage classes with a dtype of their own.
pub(super) const STORAGES: &[(&str, DType)] = &[
    ("FloatStorage", DType::F32),
    ("DoubleStorage", DType::F64),
    ("HalfStorage", DType::F16),
    ("BFloat16Storage", DType::BF16),
    ("LongStorage", DType::I64),
    ("IntStorage", DType::I32),
    ("ShortStorage", DType::I16),
    ("CharStorage", DType::I8),
    ("ByteStorage", DType::U8),
    ("BoolStorage", DType::Bool),
];

/// PyTorch's names of dtypes.
pub(super) const DTYPES: &[(&str, DType)] = &[
    ("bool", DType::Bool),
    ("uint8", DType::U8),
    ("int8", DType::I8),
    ("uint16", DType::U16),
    ("int16", DType::I16),
    ("uint32", DType::U32),
    ("int32", DType::I32),
    ("uint64", DType::U64),
    ("int64", DType::I64),
    ("float16", DType::F16),
    ("bfloat16", DType::BF16),
    ("float32", DType::F32),
    ("float64", DType::F64),
    ("float8_e4m3fn", DType::F8E4M3),
    ("float8_e5m2", DType::F8E5M2),
];
