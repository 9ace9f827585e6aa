/**
 * Element types of tensor files, under the names safetensors gives them, and their little-endian bytes. The
 * hosts that run this are little-endian too (WebGPU assumes it), so views of the bytes are the numbers.
 */
import { InputError } from '../engine/errors.ts';
import type { HostData } from './array.ts';
import { bfloatToFloat, floatToBfloat, floatToHalf, halfToFloat } from './half.ts';

/** Bytes an element. */
export const elementBytes = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
} as const;

export type ElementType = keyof typeof elementBytes;

export function isElementType(name: unknown): name is ElementType {
  return typeof name === 'string' && Object.hasOwn(elementBytes, name);
}

/**
 * Numbers from bytes: F16 and BF16 become Float32Array, I64 and U64 Float64Array, BOOL Uint8Array, all others
 * the array of their own type. The result never shares memory with a larger buffer.
 * @param what names the place in an error
 * @throws InputError for a 64-bit integer that a double does not hold exactly
 */
export function decodeElements(type: ElementType, bytes: Uint8Array, what: string): HostData {
  const whole = bytes.byteLength === bytes.buffer.byteLength;
  // Buffer's own slice() shares memory; this one copies.
  const buffer = whole ? bytes.buffer : Uint8Array.prototype.slice.call(bytes).buffer;
  switch (type) {
    case 'F64':
      return new Float64Array(buffer);
    case 'F32':
      return new Float32Array(buffer);
    case 'F16':
      return halfToFloat(new Uint16Array(buffer));
    case 'BF16':
      return bfloatToFloat(new Uint16Array(buffer));
    case 'I64':
      return wide(new BigInt64Array(buffer), what);
    case 'U64':
      return wide(new BigUint64Array(buffer), what);
    case 'I32':
      return new Int32Array(buffer);
    case 'I16':
      return new Int16Array(buffer);
    case 'I8':
      return new Int8Array(buffer);
    case 'U32':
      return new Uint32Array(buffer);
    case 'U16':
      return new Uint16Array(buffer);
    case 'U8':
    case 'BOOL':
      return new Uint8Array(buffer);
  }
}

/** A copy with the bytes of each element in the opposite order. */
export function swapBytes(bytes: Uint8Array, size: number): Uint8Array {
  const copy = Buffer.alloc(bytes.length);
  copy.set(bytes);
  if (size === 2) copy.swap16();
  else if (size === 4) copy.swap32();
  else if (size === 8) copy.swap64();
  return copy;
}

function wide(values: BigInt64Array | BigUint64Array, what: string): Float64Array {
  const numbers = new Float64Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const number = Number(values[i]);
    if (!Number.isSafeInteger(number)) {
      throw new InputError(
        `${what}: the integer ${values[i]} at position ${i} is beyond 2^53; store it as float64`,
      );
    }
    numbers[i] = number;
  }
  return numbers;
}

/** The type whose elements `data` has. */
export function elementTypeOf(data: HostData): ElementType {
  if (data instanceof Float32Array) return 'F32';
  if (data instanceof Float64Array) return 'F64';
  if (data instanceof Int32Array) return 'I32';
  if (data instanceof Uint32Array) return 'U32';
  if (data instanceof Int16Array) return 'I16';
  if (data instanceof Uint16Array) return 'U16';
  if (data instanceof Int8Array) return 'I8';
  return 'U8';
}

/**
 * Bytes from numbers: `data` as it is, or floats as F16 or BF16 (nearest, ties to even), or bytes as BOOL.
 * @throws InputError for any other conversion
 */
export function encodeElements(type: ElementType, data: HostData, what: string): Uint8Array {
  const own = elementTypeOf(data);
  let out: HostData = data;
  if (own === 'F32' && type === 'F16') out = floatToHalf(data as Float32Array);
  else if (own === 'F32' && type === 'BF16') out = floatToBfloat(data as Float32Array);
  else if (type !== own && !(own === 'U8' && type === 'BOOL')) {
    throw new InputError(`${what}: ${own} numbers cannot be written as ${type}; convert them first`);
  }
  return new Uint8Array(out.buffer, out.byteOffset, out.byteLength);
}
