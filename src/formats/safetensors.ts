/**
 * safetensors: 8 bytes of header length, a JSON header, raw little-endian data. This file works in a browser;
 * safetensors.node.ts opens and writes files.
 *
 * Nothing in a header is believed before it is checked, so memory is taken only for bytes that are there.
 */
import { brief, InputError } from '../engine/errors.ts';
import { elementCount, type HostArray, type HostData, toFloat32 } from './array.ts';
import {
  decodeElements,
  type ElementType,
  elementBytes,
  elementTypeOf,
  encodeElements,
  isElementType,
} from './elements.ts';

interface Entry {
  readonly type: ElementType;
  readonly shape: readonly number[];
  /** Positions in the file. */
  readonly begin: number;
  readonly end: number;
}

/** The format's own limit. */
const maxHeader = 100_000_000;

/** The tensors of one file. Reading is lazy and synchronous. */
export class Safetensors {
  /** In the order of their data. */
  readonly names: readonly string[];

  constructor(
    /** Path or other name, for messages. */
    readonly label: string,
    readonly metadata: Readonly<Record<string, string>>,
    private readonly entries: ReadonlyMap<string, Entry>,
    private readonly readBytes: (begin: number, end: number) => Uint8Array,
    /** Closes the file; nothing can be read afterwards. */
    readonly close: () => void = () => {},
  ) {
    this.names = [...entries.keys()];
  }

  /** @throws InputError when there is no such tensor */
  shape(name: string): number[] {
    return [...this.entry(name).shape];
  }

  /** As stored: F32, F16, ... */
  type(name: string): ElementType {
    return this.entry(name).type;
  }

  /** The numbers, row-major: every float type as Float32Array, integers in arrays of their own type. */
  read(name: string): HostData {
    const { type, begin, end } = this.entry(name);
    const data = decodeElements(type, this.readBytes(begin, end), `${this.label}: tensor ${brief(name)}`);
    return type === 'F64' ? toFloat32(data) : data;
  }

  /** The bytes as stored: row-major, little-endian; perhaps a view of the file. */
  bytes(name: string): Uint8Array {
    const { begin, end } = this.entry(name);
    return this.readBytes(begin, end);
  }

  /** The numbers as 32-bit floats, whatever their type. */
  floats(name: string): Float32Array {
    return toFloat32(this.read(name));
  }

  private entry(name: string): Entry {
    const entry = this.entries.get(name);
    if (!entry) {
      const some = this.names.slice(0, 4).join(', ');
      throw new InputError(
        `${this.label}: no tensor ${brief(name)}; it has ${this.names.length}${some ? `: ${some}${this.names.length > 4 ? ', ...' : ''}` : ''}`,
      );
    }
    return entry;
  }
}

/**
 * Checks a whole file in memory and offers its tensors.
 * @param label names the file in errors
 * @throws InputError saying in one line what is wrong, with the numbers
 */
export function parseSafetensors(file: ArrayBuffer | Uint8Array, label: string): Safetensors {
  const bytes = file instanceof Uint8Array ? file : new Uint8Array(file);
  return checkSafetensors(bytes.byteLength, (begin, end) => bytes.subarray(begin, end), label);
}

/** The same on any source of `size` bytes; `read` is asked only for ranges inside it. */
export function checkSafetensors(
  size: number,
  read: (begin: number, end: number) => Uint8Array,
  label: string,
  close?: () => void,
): Safetensors {
  const fail = (problem: string): never => {
    throw new InputError(`${label}: ${problem}`);
  };
  if (size < 8) fail(`truncated: a safetensors file needs at least 8 bytes, this has ${size}`);
  const lengthBytes = read(0, 8);
  const length = Number(new DataView(lengthBytes.buffer, lengthBytes.byteOffset, 8).getBigUint64(0, true));
  if (length > maxHeader)
    fail(`not a safetensors file: it claims a header of ${length} bytes, ${maxHeader} is the most`);
  const dataBegin = 8 + length;
  if (dataBegin > size)
    fail(`truncated: the header needs ${dataBegin} bytes, the file has ${size}; get it again`);

  const header = parseHeader(read(8, dataBegin), fail);
  const metadata: Record<string, string> = {};
  const entries: [string, Entry][] = [];
  for (const [name, value] of header) {
    if (name === '__metadata__') {
      if (!isObject(value)) fail('__metadata__ is not an object of strings');
      for (const [key, text] of Object.entries(value as object)) {
        if (typeof text !== 'string') fail(`__metadata__ ${brief(key)} is not a string`);
        // Plain assignment would lose a key named __proto__.
        Object.defineProperty(metadata, key, { value: text, enumerable: true });
      }
    } else entries.push([name, parseEntry(name, value, dataBegin, fail)]);
  }

  // In order of position the tensors must follow each other without gap or overlap, up to the end of the file.
  entries.sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  const needed = entries.at(-1)?.[1].end ?? dataBegin;
  if (needed > size) fail(`truncated: its tensors need ${needed} bytes, the file has ${size}; get it again`);
  let at = dataBegin;
  let before = 'the header';
  for (const [name, { begin, end }] of entries) {
    if (begin !== at) {
      fail(
        `tensor ${brief(name)} begins at byte ${begin}, but ${before} ends at ${at}: ${begin < at ? 'they overlap' : 'unused bytes between them'}`,
      );
    }
    at = end;
    before = `tensor ${brief(name)}`;
  }
  if (at !== size) fail(`${size - at} bytes after the last tensor, which ends at byte ${at} of ${size}`);
  return new Safetensors(label, metadata, new Map(entries), read, close);
}

function parseHeader(bytes: Uint8Array, fail: (problem: string) => never): [string, unknown][] {
  if (bytes[0] !== 0x7b) fail('not a safetensors file: its header does not begin with "{"');
  let text = '';
  let header: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    header = JSON.parse(text);
  } catch (error) {
    const reason = error instanceof SyntaxError ? 'valid JSON' : 'valid UTF-8';
    fail(`the header (${bytes.length} bytes) is not ${reason}; the file is damaged, get it again`);
  }
  checkStructure(text, fail);
  return Object.entries(header as object);
}

/** What JSON.parse lets pass: a key given twice, of which it keeps the last, and nesting without end. */
function checkStructure(text: string, fail: (problem: string) => never): void {
  const open: Set<string>[] = [];
  for (let at = 0; at < text.length; at++) {
    const c = text[at];
    if (c === '{' || c === '[') {
      open.push(new Set());
      if (open.length > 16) fail('the header nests more than 16 levels, 3 are needed');
    } else if (c === '}' || c === ']') open.pop();
    else if (c === '"') {
      // The text is valid JSON, so the string ends, and only a key is followed by a colon.
      const begin = at++;
      while (text[at] !== '"') at += text[at] === '\\' ? 2 : 1;
      let next = at + 1;
      while (' \t\n\r'.includes(text[next] as string)) next++;
      if (text[next] !== ':') continue;
      const key = JSON.parse(text.slice(begin, at + 1)) as string;
      const keys = open[open.length - 1] as Set<string>;
      if (keys.has(key)) fail(`the header names ${brief(key)} twice`);
      keys.add(key);
    }
  }
}

function parseEntry(
  name: string,
  value: unknown,
  dataBegin: number,
  fail: (problem: string) => never,
): Entry {
  const what = `tensor ${brief(name)}`;
  if (!isObject(value)) fail(`${what} is not described by an object`);
  const { dtype, shape, data_offsets: offsets } = value as Record<string, unknown>;
  if (!isElementType(dtype)) {
    return fail(`${what} has dtype ${brief(dtype)}; supported are ${Object.keys(elementBytes).join(', ')}`);
  }
  if (!isSizes(shape)) return fail(`${what} has shape ${brief(shape)}; sizes are integers of at least 0`);
  if (!isSizes(offsets) || offsets.length !== 2 || (offsets[1] as number) < (offsets[0] as number)) {
    return fail(`${what} has data_offsets ${brief(offsets)}; [begin, end] in bytes is wanted`);
  }
  const [begin, end] = offsets as [number, number];
  const needed = elementCount(shape) * elementBytes[dtype];
  if (needed !== end - begin) {
    return fail(
      `${what}, ${dtype} ${brief(shape)}, needs ${needed} bytes, but its data_offsets hold ${end - begin}`,
    );
  }
  return { type: dtype, shape, begin: dataBegin + begin, end: dataBegin + end };
}

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

/** A tensor to write; `type` asks for F16 or BF16 of Float32Array data, or BOOL of Uint8Array data. */
export interface TensorToWrite extends HostArray {
  readonly type?: ElementType;
}

/** A tensor of a file that is written piece by piece. */
export interface TensorToStream {
  readonly name: string;
  readonly shape: readonly number[];
  readonly type: ElementType;
  /** Row-major and little-endian; asked for once, when it is its turn. */
  bytes(): Uint8Array;
}

/**
 * The bytes of a file in pieces, the header and then a tensor at a time. The same tensors give the same bytes: data lies in
 * order of element size, widest first so that all of it is aligned, then of name.
 * @throws InputError when a shape does not fit its data
 */
export function piecesOfSafetensors(
  tensors: Readonly<Record<string, TensorToWrite>>,
  metadata: Readonly<Record<string, string>> = {},
): (() => Uint8Array)[] {
  const parts = Object.entries(tensors).map(([name, { shape, data, type = elementTypeOf(data) }]) => {
    if (!isSizes(shape) || elementCount(shape) !== data.length) {
      throw new InputError(
        `tensor ${brief(name)}: shape ${brief(shape)} does not hold ${data.length} numbers`,
      );
    }
    const bytes = encodeElements(type, data, `tensor ${brief(name)}`);
    return { name, shape, type, bytes: () => bytes };
  });
  return streamSafetensors(parts, metadata);
}

/** The same in one. */
export function encodeSafetensors(
  tensors: Readonly<Record<string, TensorToWrite>>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const pieces = piecesOfSafetensors(tensors, metadata).map((piece) => piece());
  const file = new Uint8Array(pieces.reduce((length, piece) => length + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    file.set(piece, at);
    at += piece.length;
  }
  return file;
}

/**
 * The bytes of a file in pieces, each made when it is called for: the header, then a tensor at a time, in the order
 * of `piecesOfSafetensors`. A piece fails with an InputError when its bytes are not as many as its shape needs.
 */
export function streamSafetensors(
  tensors: readonly TensorToStream[],
  metadata: Readonly<Record<string, string>> = {},
): (() => Uint8Array)[] {
  const parts = [...tensors];
  parts.sort((a, b) => elementBytes[b.type] - elementBytes[a.type] || (a.name < b.name ? -1 : 1));

  // Joined by hand: an object would move names that look like integers to its front.
  const fields: string[] = [];
  const keys = Object.keys(metadata).sort();
  if (keys.length > 0) {
    fields.push(
      `"__metadata__":{${keys.map((key) => `${JSON.stringify(key)}:${JSON.stringify(metadata[key])}`).join(',')}}`,
    );
  }
  let end = 0;
  for (const { name, shape, type } of parts) {
    if (name === '__metadata__') throw new InputError('a tensor cannot be named __metadata__');
    const begin = end;
    end += elementCount(shape) * elementBytes[type];
    fields.push(
      `${JSON.stringify(name)}:${JSON.stringify({ dtype: type, shape, data_offsets: [begin, end] })}`,
    );
  }
  const header = new TextEncoder().encode(`{${fields.join(',')}}`);
  const dataBegin = 8 + Math.ceil(header.length / 8) * 8;
  const front = new Uint8Array(dataBegin).fill(0x20, 8);
  new DataView(front.buffer).setBigUint64(0, BigInt(dataBegin - 8), true);
  front.set(header, 8);
  return [() => front, ...parts.map((part) => () => checkedBytes(part))];
}

function checkedBytes(tensor: TensorToStream): Uint8Array {
  const bytes = tensor.bytes();
  const needed = elementCount(tensor.shape) * elementBytes[tensor.type];
  if (bytes.length !== needed)
    throw new InputError(`tensor ${brief(tensor.name)}: ${bytes.length} bytes, its shape needs ${needed}`);
  return bytes;
}
