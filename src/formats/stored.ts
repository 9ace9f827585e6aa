/** What all checkpoint readers share: a tensor that lies in a file, and the way from nested containers to names. */
import { brief, InputError } from '../engine/errors.ts';
import type { ElementType } from './elements.ts';

/** A tensor that lies in a file and is read when it is asked for. */
export class StoredTensor {
  constructor(
    readonly shape: readonly number[],
    readonly type: ElementType,
    /** Its bytes: row-major, little-endian; perhaps a view. */
    readonly bytes: () => Uint8Array,
  ) {}
}

export interface StoredTensors {
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** Everything that is no tensor, as short text. */
  readonly metadata: Readonly<Record<string, string>>;
}

/** Elements in row-major order, from bytes in which they lie at `strides` (in elements, from the first byte on). */
export function rowMajor(
  bytes: Uint8Array,
  size: number,
  shape: readonly number[],
  strides: readonly number[],
): Uint8Array {
  const Words = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array, 8: BigUint64Array }[size];
  if (!Words) throw new Error(`elements of ${size} bytes`);
  const aligned = bytes.byteOffset % size === 0 ? bytes : Uint8Array.from(bytes);
  const from = new Words(aligned.buffer as ArrayBuffer, aligned.byteOffset, aligned.byteLength / size);
  const to = new Words(shape.reduce((count, n) => count * n, 1));
  const index = new Array<number>(shape.length).fill(0);
  let at = 0;
  for (let i = 0; i < to.length; i++) {
    to[i] = from[at] as number & bigint;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index[axis]!++;
      at += strides[axis] as number;
      if ((index[axis] as number) < (shape[axis] as number)) break;
      at -= (strides[axis] as number) * (shape[axis] as number);
      index[axis] = 0;
    }
  }
  return new Uint8Array(to.buffer);
}

const deepest = 100;
const mostNodes = 200_000;
/** Characters of all names together, as one container may be shared by many. */
const mostCharacters = 2 ** 24;
const longestText = 200;

/**
 * Names for the tensors of nested containers: keys and list positions joined by dots, as `state_dict.conv1.weight`.
 * A tensor that is everything there is gets the name "tensor".
 * @param tensorOf the tensor that a value is, if it is one
 * @throws InputError for containers that hold themselves, nest too deep, or give two tensors one name
 */
export function flatten(
  root: unknown,
  label: string,
  tensorOf: (value: unknown) => StoredTensor | undefined,
): StoredTensors {
  const tensors = new Map<string, StoredTensor>();
  const metadata: Record<string, string> = Object.create(null);
  const open = new Set<unknown>();
  let nodes = 0;
  let characters = 0;
  const fail = (path: string, problem: string): never => {
    throw new InputError(`${label}: ${brief(path)} ${problem}`);
  };
  const visit = (value: unknown, path: string): void => {
    nodes += 1 + (Array.isArray(value) ? value.length : 0);
    characters += path.length;
    if (nodes > mostNodes || characters > mostCharacters)
      fail(path, `is one of more than ${mostNodes} entries; this is no file of weights`);
    const tensor = tensorOf(value);
    if (tensor) {
      const name = path === '' ? 'tensor' : path;
      if (tensors.has(name)) fail(name, 'names two tensors');
      tensors.set(name, tensor);
      return;
    }
    const entries =
      value instanceof Map ? value.entries() : isMixed(value) ? (value as unknown[]).entries() : null;
    if (!entries) {
      metadata[path] = describe(value);
      return;
    }
    if (open.has(value)) fail(path, 'contains itself');
    if (open.size >= deepest) fail(`${path.slice(0, 40)}...`, `nests more than ${deepest} levels`);
    open.add(value);
    for (const [key, item] of entries) {
      const step = typeof key === 'object' ? describe(key) : String(key);
      if (step.length > 1000) fail(path, `has a key of ${step.length} characters`);
      visit(item, path === '' ? step : `${path}.${step}`);
    }
    open.delete(value);
  };
  visit(root, '');
  return { tensors, metadata };
}

/** A list in which containers or tensors lie; one of numbers alone is a setting. */
function isMixed(value: unknown): boolean {
  return Array.isArray(value) && value.some((item) => typeof item === 'object' && item !== null);
}

/** A value that is no tensor, on one line. Containers give their kind alone, as they may be cyclic. */
function describe(value: unknown): string {
  let text: string;
  if (value === null) text = 'None';
  else if (Array.isArray(value)) {
    const some = value.slice(0, 16).map((item) => (typeof item === 'object' ? '...' : String(item)));
    text = `[${some.join(', ')}${value.length > 16 ? `, ... ${value.length} in all` : ''}]`;
  } else if (value instanceof Uint8Array) text = `${value.length} bytes`;
  else if (value instanceof Set) text = `a set of ${value.size}`;
  else if (typeof value === 'string') text = value.slice(0, longestText + 1);
  else text = String(value);
  const line = text.replaceAll(/\s+/g, ' ');
  return line.length > longestText ? `${line.slice(0, longestText - 3)}...` : line;
}
