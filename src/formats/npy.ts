/** NumPy's .npy: one array, a short text header, raw data. */
import { InputError } from '../engine/errors.ts';
import { writeFileAtomic } from '../report/files.ts';
import { elementCount, type HostArray } from './array.ts';
import { decodeElements, type ElementType, elementBytes, elementTypeOf, encodeElements } from './elements.ts';
import { readInput } from './read.ts';
import { rowMajor, StoredTensor } from './stored.ts';

/** Bytes; NumPy writes some 128, more only for structured types. */
const longestHeader = 1 << 20;

/** Element types by NumPy's names of them. */
export const numpyTypes: Readonly<Record<string, ElementType>> = {
  '<f8': 'F64',
  '<f4': 'F32',
  '<f2': 'F16',
  '<i8': 'I64',
  '<i4': 'I32',
  '<i2': 'I16',
  '|i1': 'I8',
  '<u8': 'U64',
  '<u4': 'U32',
  '<u2': 'U16',
  '|u1': 'U8',
  '|b1': 'BOOL',
};

/** Reads an array. Fortran order is turned into C order; 64-bit integers become Float64Array. @throws InputError */
export function readNpy(path: string): HostArray {
  return parseNpy(readInput(path), path);
}

/**
 * @param label names the file in errors
 * @throws InputError saying in one line what is wrong, with the numbers
 */
export function parseNpy(file: Uint8Array, label: string): HostArray {
  const tensor = checkNpy(file.length, (begin, end) => file.subarray(begin, end), label);
  return { shape: tensor.shape, data: decodeElements(tensor.type, tensor.bytes(), label) };
}

/**
 * Checks the header of a file of `size` bytes and offers its array, which is read when it is asked for.
 * @param read is asked only for ranges inside the file
 * @throws InputError
 */
export function checkNpy(
  size: number,
  read: (begin: number, end: number) => Uint8Array,
  label: string,
): StoredTensor {
  const fail = (problem: string): never => {
    throw new InputError(`${label}: ${problem}`);
  };
  const magic = '\x93NUMPY';
  if (size < 10) fail(`truncated: a .npy file needs at least 10 bytes, this has ${size}`);
  const front = read(0, Math.min(size, 12));
  if (String.fromCharCode(...front.subarray(0, 6)) !== magic)
    fail('not a .npy file: it does not begin with \\x93NUMPY');
  const version = front[6] as number;
  if (version < 1 || version > 3) fail(`version ${version}.${front[7]} of .npy is not known; 1.0 to 3.0 are`);
  const view = new DataView(front.buffer, front.byteOffset, front.byteLength);
  const headerBegin = version === 1 ? 10 : 12;
  if (size < headerBegin)
    fail(`truncated: the header needs at least ${headerBegin} bytes, the file has ${size}`);
  const dataBegin = headerBegin + (version === 1 ? view.getUint16(8, true) : view.getUint32(8, true));
  if (dataBegin > size) fail(`truncated: the header needs ${dataBegin} bytes, the file has ${size}`);
  if (dataBegin > longestHeader) fail(`its header has ${dataBegin} bytes, ${longestHeader} is the most`);

  const { descr, fortran, shape } = parseHeader(new TextDecoder().decode(read(headerBegin, dataBegin)), fail);
  const type = Object.hasOwn(numpyTypes, descr) ? numpyTypes[descr] : undefined;
  if (!type) {
    return fail(
      `dtype ${descr} is not supported; save it as float32 (array.astype("<f4")) or one of ${Object.keys(numpyTypes).join(' ')}`,
    );
  }
  const needed = dataBegin + elementCount(shape) * elementBytes[type];
  if (needed !== size) {
    const what = needed > size ? 'truncated' : 'too long';
    fail(`${what}: ${descr} of shape (${shape.join(', ')}) needs ${needed} bytes, the file has ${size}`);
  }
  return new StoredTensor(shape, type, () => {
    const bytes = read(dataBegin, size);
    return fortran ? rowMajor(bytes, elementBytes[type], shape, columnStrides(shape)) : bytes;
  });
}

/** Strides of Fortran order, in elements. */
export function columnStrides(shape: readonly number[]): number[] {
  return shape.map((_, axis) => elementCount(shape.slice(0, axis)));
}

/** Reads the Python dictionary that NumPy writes: three known keys, in any order. */
function parseHeader(text: string, fail: (problem: string) => never) {
  const fields = new Map<string, string>();
  const body = /^\{(.*)\}\s*$/s.exec(text)?.[1];
  const field = /\s*'(descr|fortran_order|shape)'\s*:\s*('[^'\\]{1,16}'|True|False|\([\d\s,]*\))\s*(,|$)/y;
  let at = 0;
  while (body !== undefined && body.slice(at).trim() !== '') {
    field.lastIndex = at;
    const [all, key, value] = field.exec(body) ?? fail(`its header is not understood: ${brief(text)}`);
    if (fields.has(key as string)) fail(`its header has '${key}' twice`);
    fields.set(key as string, value as string);
    at += (all as string).length;
  }
  const descr = /^'(.*)'$/.exec(fields.get('descr') ?? '')?.[1];
  const order = /^(True|False)$/.exec(fields.get('fortran_order') ?? '')?.[1];
  const tuple = fields.get('shape') ?? '';
  // By parts and not by one expression, whose time could grow with the square of the spaces.
  const sizes = tuple
    .slice(1, -1)
    .split(',')
    .map((size) => size.trim());
  // Python ends a tuple of one with a comma; () holds nothing.
  if (sizes.at(-1) === '') sizes.pop();
  const understood = tuple.startsWith('(') && sizes.every((size) => /^\d+$/.test(size));
  const single = sizes.length === 1 && !tuple.includes(',');
  if (descr === undefined || order === undefined || !understood || single)
    return fail(`its header is not understood: ${brief(text)}`);
  const shape = sizes.map(Number);
  if (!shape.every(Number.isSafeInteger)) fail(`shape ${brief(tuple)} is beyond 2^53`);
  return { descr, fortran: order === 'True', shape };
}

function brief(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 77)}...` : text.trim());
}

/** Writes an array in C order, whole or not at all. @throws InputError */
export function writeNpy(path: string, array: HostArray, type?: ElementType): void {
  writeFileAtomic(path, encodeNpy(array, type));
}

/** The bytes of a file. @param type F16 of Float32Array data, or BOOL of Uint8Array data; else the data's own */
export function encodeNpy({ shape, data }: HostArray, type: ElementType = elementTypeOf(data)): Uint8Array {
  const descr = Object.keys(numpyTypes).find((key) => numpyTypes[key] === type);
  if (!descr) throw new InputError(`.npy has no ${type}; write float32`);
  if (elementCount(shape) !== data.length) {
    throw new InputError(`.npy: shape (${shape.join(', ')}) does not hold ${data.length} numbers`);
  }
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`;
  const dictionary = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${tuple}, }`;
  const long = dictionary.length + 75 > 0xffff;
  const headerBegin = long ? 12 : 10;
  // Data begins at a multiple of 64, the header ends with a newline.
  const dataBegin = Math.ceil((headerBegin + dictionary.length + 1) / 64) * 64;
  const bytes = encodeElements(type, data, '.npy');
  const file = new Uint8Array(dataBegin + bytes.length);
  file.set([0x93, ...new TextEncoder().encode('NUMPY'), long ? 2 : 1, 0]);
  const view = new DataView(file.buffer);
  if (long) view.setUint32(8, dataBegin - headerBegin, true);
  else view.setUint16(8, dataBegin - headerBegin, true);
  file.set(new TextEncoder().encode(`${dictionary.padEnd(dataBegin - headerBegin - 1)}\n`), headerBegin);
  file.set(bytes, dataBegin);
  return file;
}
