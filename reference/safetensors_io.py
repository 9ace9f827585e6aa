"""A small reader and writer of the safetensors format: 8 bytes of header length, a JSON header, raw little-endian data."""
import json
import struct

import numpy as np

DTYPES = {'F64': '<f8', 'F32': '<f4', 'F16': '<f2', 'I64': '<i8', 'I32': '<i4', 'U32': '<u4', 'U8': '|u1'}
NAMES = {np.dtype(v): k for k, v in DTYPES.items()}


def save(path, tensors, metadata=None):
    """tensors: name -> numpy array; metadata: name -> string. The header is padded so that data starts 8-byte aligned."""
    header, offset, arrays = {}, 0, []
    if metadata:
        header['__metadata__'] = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    # Widest elements first, so that every tensor is aligned to its own element size.
    for name, value in sorted(tensors.items(), key=lambda nv: (-np.asarray(nv[1]).dtype.itemsize, nv[0])):
        a = np.asarray(value, order='C')
        a = a.astype(a.dtype.newbyteorder('<'), copy=False)
        header[name] = {'dtype': NAMES[a.dtype], 'shape': list(a.shape), 'data_offsets': [offset, offset + a.nbytes]}
        offset += a.nbytes
        arrays.append(a)
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text)
        for a in arrays:
            f.write(a.tobytes())


def load(path):
    """-> (name -> numpy array, metadata)"""
    with open(path, 'rb') as f:
        data = f.read()
    (n,) = struct.unpack('<Q', data[:8])
    header = json.loads(data[8:8 + n])
    metadata = header.pop('__metadata__', {})
    body, tensors = data[8 + n:], {}
    for name, t in header.items():
        a, b = t['data_offsets']
        tensors[name] = np.frombuffer(body[a:b], DTYPES[t['dtype']]).reshape(t['shape'])
    return tensors, metadata
