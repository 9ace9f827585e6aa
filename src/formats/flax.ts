/**
 * Flax's checkpoints: msgpack of nested maps, in which an array is the extension 1 with the payload (shape, name of
 * the dtype, bytes in C order), also in msgpack; a complex number is the extension 2, a NumPy number the extension 3.
 * An array of more than 2^30 bytes is a map of flat chunks. Only places and shapes are kept, so a file of any size
 * may be opened.
 */
import { brief, InputError } from '../engine/errors.ts';
import { elementCount } from './array.ts';
import { decodeElements, type ElementType, elementBytes } from './elements.ts';
import { Msgpack, MsgpackBytes } from './msgpack.ts';
import type { ByteSource } from './read.ts';
import { flatten, StoredTensor, type StoredTensors } from './stored.ts';

const dtypes: Readonly<Record<string, ElementType>> = {
  float64: 'F64',
  float32: 'F32',
  float16: 'F16',
  bfloat16: 'BF16',
  int64: 'I64',
  int32: 'I32',
  int16: 'I16',
  int8: 'I8',
  uint64: 'U64',
  uint32: 'U32',
  uint16: 'U16',
  uint8: 'U8',
  bool: 'BOOL',
};

const chunkedMark = '__msgpack_chunked_array__';

/** @throws InputError for an array whose bytes do not fit its shape, or an object that is not Flax's */
export function readFlax(file: ByteSource, label: string): StoredTensors {
  const reader = new Msgpack(file, label, (code, begin, end, path) => {
    // Of up to a hundred keys: made for a message alone.
    const what = () => brief(path.join('.'));
    if (code === 2) return reader.object(begin, end, path);
    if (code !== 1 && code !== 3)
      throw reader.error(`${what()} is the extension ${code}; Flax has 1, 2 and 3`);
    const [shape, dtype, bytes] = tuple(reader.object(begin, end, path));
    if (!isSizes(shape)) throw reader.error(`array ${what()} has a shape that is no list of sizes`);
    if (typeof dtype !== 'string' || !Object.hasOwn(dtypes, dtype)) {
      throw reader.error(
        `array ${what()} has dtype ${brief(String(dtype))}; supported are ${Object.keys(dtypes).join(', ')}`,
      );
    }
    const type = dtypes[dtype] as ElementType;
    if (!(bytes instanceof MsgpackBytes)) throw reader.error(`array ${what()} has no bytes`);
    const needed = elementCount(shape) * elementBytes[type];
    const found = bytes.end - bytes.begin;
    if (needed !== found) {
      throw reader.error(
        `array ${what()}, ${dtype} [${shape.join(', ')}], needs ${needed} bytes, it has ${found}`,
      );
    }
    const stored = new StoredTensor(shape, type, () => file.read(bytes.begin, bytes.end));
    return code === 3 && shape.length === 0
      ? decodeElements(type, stored.bytes(), `${label}: ${what()}`)[0]
      : stored;
  });
  const root = reader.file();
  if (!(root instanceof Map))
    throw new InputError(`${label}: not a Flax checkpoint: it holds no map of arrays`);
  return flatten(root, label, (value) => tensorOf(value, label));
}

function tensorOf(value: unknown, label: string): StoredTensor | undefined {
  if (value instanceof StoredTensor) return value;
  if (!(value instanceof Map) || !value.get(chunkedMark)) return undefined;
  const shape = values(value.get('shape'));
  const chunks = values(value.get('chunks'));
  if (!isSizes(shape) || !chunks.every((chunk) => chunk instanceof StoredTensor) || chunks.length === 0)
    throw new InputError(`${label}: a chunked array is not understood: a shape and arrays are wanted`);
  const { type } = chunks[0] as StoredTensor;
  const needed = elementCount(shape);
  const found = chunks.reduce((sum, chunk) => sum + elementCount(chunk.shape), 0);
  if (needed !== found || chunks.some((chunk) => chunk.type !== type)) {
    throw new InputError(
      `${label}: a chunked array of shape [${shape.join(', ')}] needs ${needed} elements of one type, its ${chunks.length} chunks have ${found}`,
    );
  }
  return new StoredTensor(shape, type, () => {
    const whole = new Uint8Array(needed * elementBytes[type]);
    let at = 0;
    for (const chunk of chunks) {
      const bytes = chunk.bytes();
      whole.set(bytes, at);
      at += bytes.length;
    }
    return whole;
  });
}

/** A list, or a map of "0", "1", ..., which is how Flax writes tuples. */
function values(value: unknown): unknown[] {
  if (Array.isArray(value)) return value;
  if (!(value instanceof Map)) return [];
  return Array.from({ length: value.size }, (_, i) => value.get(String(i)));
}

function tuple(value: unknown): unknown[] {
  return Array.isArray(value) && value.length === 3 ? value : [];
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.length <= 64 && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}
