#!/usr/bin/env python3
"""Cuts the first 1,000 images and labels from the official Fashion-MNIST test files, deterministically.

make_subset.py DIRECTORY_WITH_t10k_FILES
"""
import gzip
import hashlib
import os
import sys

COUNT = 1000
here = os.path.dirname(os.path.abspath(__file__))
for kind, dims, item in (('images', 3, 28 * 28), ('labels', 1, 1)):
    name = f't10k-{kind}-idx{dims}-ubyte.gz'
    with gzip.open(os.path.join(sys.argv[1], name)) as f:
        data = f.read()
    header = 4 + 4 * dims
    part = data[:4] + COUNT.to_bytes(4, 'big') + data[8:header] + data[header:header + COUNT * item]
    out = f't10k-{kind}-first{COUNT}.idx{dims}-ubyte.gz'
    packed = bytearray(gzip.compress(part, 9, mtime=0))
    packed[9] = 255  # operating system: unknown
    with open(os.path.join(here, out), 'wb') as f:
        f.write(packed)
    print(hashlib.sha256(packed).hexdigest(), out, len(packed))
