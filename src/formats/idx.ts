/**
 * IDX, the format of MNIST and its kin: a magic number, sizes, raw big-endian data. This file works in a browser;
 * idx.node.ts unpacks files, which are often gzipped.
 */
import { InputError } from '../engine/errors.ts';
import { elementCount, type HostArray } from './array.ts';
import { decodeElements, type ElementType, elementBytes } from './elements.ts';

const types: Readonly<Record<number, ElementType>> = {
  8: 'U8',
  9: 'I8',
  11: 'I16',
  12: 'I32',
  13: 'F32',
  14: 'F64',
};

/**
 * @param label names the file in errors
 * @throws InputError saying in one line what is wrong, with the numbers
 */
export function parseIdx(bytes: Uint8Array, label: string): HostArray {
  const fail = (problem: string): never => {
    throw new InputError(`${label}: ${problem}`);
  };
  if (bytes.length < 4) fail(`truncated: an IDX file needs at least 4 bytes, this has ${bytes.length}`);
  const [zero, zeroToo, code, rank] = bytes as unknown as [number, number, number, number];
  const type = types[code];
  if (zero !== 0 || zeroToo !== 0 || !type || rank === 0) {
    const magic = [...bytes.subarray(0, 4)].map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
    return fail(
      `not an IDX file: it begins with ${magic}; 00 00, a type (08 to 0e) and a number of axes are wanted`,
    );
  }
  const dataBegin = 4 + 4 * rank;
  if (bytes.length < dataBegin)
    fail(`truncated: the header needs ${dataBegin} bytes, there are ${bytes.length}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const shape = Array.from({ length: rank }, (_, axis) => view.getUint32(4 + 4 * axis));
  const needed = dataBegin + elementCount(shape) * elementBytes[type];
  if (needed !== bytes.length) {
    const what = needed > bytes.length ? 'truncated' : 'too long';
    fail(`${what}: ${shape.join(' x ')} of ${type} need ${needed} bytes, there are ${bytes.length}`);
  }
  const data = bytes.slice(dataBegin);
  const width = elementBytes[type];
  if (width > 1) for (let at = 0; at < data.length; at += width) data.subarray(at, at + width).reverse();
  return { shape, data: decodeElements(type, data, label) };
}
