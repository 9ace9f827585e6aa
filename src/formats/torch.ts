/**
 * PyTorch's checkpoints, without Python and without running anything: the zip archives of torch.save since 1.6
 * (`<root>/data.pkl` beside `<root>/data/<key>`) and the older sequence of pickles with raw storages behind them.
 * A tensor is a view of a storage: sizes, strides and an offset, all checked against the storage's end.
 */
import { InputError } from '../engine/errors.ts';
import { elementCount } from './array.ts';
import { type ElementType, elementBytes, swapBytes } from './elements.ts';
import {
  brief,
  NumpyArray,
  type PickleCall,
  type PickleContext,
  PickleGlobal,
  type PickleGlobals,
  readPickle,
  type Stateful,
  unpickle,
} from './pickle.ts';
import type { ByteSource } from './read.ts';
import { flatten, rowMajor, StoredTensor, type StoredTensors } from './stored.ts';
import type { ZipEntry } from './zip.ts';

/** Bytes of a pickle that may lie in memory; the structure alone takes far less. */
const longestPickle = 2 ** 28;

const storageTypes: Readonly<Record<string, ElementType>> = {
  'torch.DoubleStorage': 'F64',
  'torch.FloatStorage': 'F32',
  'torch.HalfStorage': 'F16',
  'torch.BFloat16Storage': 'BF16',
  'torch.LongStorage': 'I64',
  'torch.IntStorage': 'I32',
  'torch.ShortStorage': 'I16',
  'torch.CharStorage': 'I8',
  'torch.ByteStorage': 'U8',
  'torch.BoolStorage': 'BOOL',
  // Bytes; the tensor names the type.
  'torch.UntypedStorage': 'U8',
  'torch.storage.UntypedStorage': 'U8',
};

const dtypes: Readonly<Record<string, ElementType>> = {
  'torch.float64': 'F64',
  'torch.float32': 'F32',
  'torch.float16': 'F16',
  'torch.bfloat16': 'BF16',
  'torch.int64': 'I64',
  'torch.int32': 'I32',
  'torch.int16': 'I16',
  'torch.int8': 'I8',
  'torch.uint64': 'U64',
  'torch.uint32': 'U32',
  'torch.uint16': 'U16',
  'torch.uint8': 'U8',
  'torch.bool': 'BOOL',
};

/** Where the bytes of a storage lie. */
interface Place {
  readonly source: ByteSource;
  readonly begin: number;
  readonly bigEndian: boolean;
}

/** A storage as the pickle names it; a view of another begins `offset` elements into it. */
class Storage {
  place: Place | null = null;

  constructor(
    readonly key: string,
    readonly type: ElementType,
    readonly elements: number,
  ) {}

  get byteLength(): number {
    return this.elements * elementBytes[this.type];
  }

  read(begin: number, end: number, size: number): Uint8Array {
    if (begin === end) return new Uint8Array(0);
    const { source, begin: base, bigEndian } = this.place as Place;
    const bytes = source.read(base + begin, base + end);
    return bigEndian ? swapBytes(bytes, size) : bytes;
  }
}

/** A part of a storage, which older files name as a storage of its own. */
class StorageView {
  constructor(
    readonly storage: Storage,
    readonly offset: number,
    readonly elements: number,
  ) {}
}

/** (storage, offset, sizes, strides) -> a tensor. The other arguments, gradients and hooks, are of no use here. */
function tensor(
  args: readonly unknown[],
  dtype: ElementType | undefined,
  { error, charge }: PickleContext,
): StoredTensor {
  const [given, offset, shape, strides] = args;
  const view = given instanceof Storage ? new StorageView(given, 0, given.elements) : given;
  if (!(view instanceof StorageView)) throw error('a tensor has no storage');
  const { storage } = view;
  if (!isCount(offset) || !isCounts(shape) || !isCounts(strides) || strides.length !== shape.length) {
    throw error(
      `a tensor has offset ${brief(offset)}, sizes ${brief(shape)} and strides ${brief(strides)}; integers of at least 0, as many strides as sizes, are wanted`,
    );
  }
  charge(512 + 16 * shape.length);
  const type = dtype ?? storage.type;
  const size = elementBytes[type];
  const count = elementCount(shape);
  const begin = (view.offset * elementBytes[storage.type] + offset * size) as number;
  const span = count === 0 ? 0 : shape.reduce((end, n, axis) => end + (n - 1) * (strides[axis] as number), 1);
  const available = Math.min(storage.byteLength, (view.offset + view.elements) * elementBytes[storage.type]);
  if (!(begin + span * size <= available)) {
    throw error(
      `a tensor of sizes ${brief(shape)}, strides ${brief(strides)} and offset ${offset} ends at byte ${begin + span * size} of storage ${brief(storage.key)}, which has ${available}`,
    );
  }
  // An expanded tensor repeats its storage; a small one is harmless.
  if (count > Math.max(storage.byteLength / size, 2 ** 20)) {
    throw error(
      `a tensor of sizes ${brief(shape)} is expanded from ${storage.elements} elements; save it after .contiguous()`,
    );
  }
  const contiguous = span === count && isContiguous(shape, strides);
  return new StoredTensor([...shape], type, () => {
    const bytes = storage.read(begin, begin + span * size, size);
    return contiguous ? bytes : rowMajor(bytes, size, shape, strides);
  });
}

function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  let step = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1 && strides[axis] !== step) return false;
    step *= shape[axis] as number;
  }
  return true;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.length <= 64 && value.every(isCount);
}

/** (tensor, requires_grad, hooks) -> the tensor */
const parameter: PickleCall = ([data], { error }) => {
  if (!(data instanceof StoredTensor)) throw error('a parameter is no tensor');
  return data;
};

/** (function, type, arguments, state) -> what the function makes; the attributes of a tensor are of no use here. */
const fromType: PickleCall = ([rebuild, _, args], context) => {
  if (
    !(rebuild instanceof PickleGlobal) ||
    !rebuild.name.startsWith('torch._utils._rebuild_') ||
    !rebuild.call
  )
    throw context.error('a tensor is rebuilt by something that does not rebuild tensors');
  if (!Array.isArray(args)) throw context.error('a tensor is rebuilt without arguments');
  return rebuild.call(args, context);
};

/** Settings as argparse keeps them. */
class Namespace extends Map<unknown, unknown> implements Stateful {
  setState(state: unknown, { error, charge }: PickleContext): void {
    if (!(state instanceof Map)) throw error('a Namespace has no fields');
    charge(64 * state.size);
    for (const [name, value] of state) this.set(name, value);
  }
}

const torchGlobals: PickleGlobals = {
  'torch._utils._rebuild_tensor': (args, context) => tensor(args, undefined, context),
  'torch._utils._rebuild_tensor_v2': (args, context) => tensor(args, undefined, context),
  'torch._utils._rebuild_tensor_v3': (args, context) => {
    const dtype = args[6] instanceof PickleGlobal ? args[6].name : '';
    if (!Object.hasOwn(dtypes, dtype)) throw context.error('a tensor has no dtype');
    return tensor(args, dtypes[dtype], context);
  },
  'torch._utils._rebuild_parameter': parameter,
  'torch._utils._rebuild_parameter_with_state': parameter,
  'torch._tensor._rebuild_from_type_v2': fromType,
  'torch.Size': ([sizes = []], { error }) => {
    if (!Array.isArray(sizes)) throw error('a torch.Size is made of something that is no list');
    return sizes;
  },
  'torch.device': (args) =>
    args
      .slice(0, 2)
      .filter((arg) => typeof arg !== 'object')
      .join(':')
      .slice(0, 100),
  'torch.Tensor': null,
  'torch.nn.parameter.Parameter': null,
  'argparse.Namespace': (_, { charge }) => {
    charge(256);
    return new Namespace();
  },
  ...Object.fromEntries([...Object.keys(storageTypes), ...Object.keys(dtypes)].map((name) => [name, null])),
};

/** Resolves ('storage', type, key, location, elements, view) to the one storage of that key. */
function storageLoader(storages: Map<string, Storage>, place: (storage: Storage) => Place | null) {
  return (id: unknown, { error, charge }: PickleContext): Storage | StorageView => {
    const [kind, type, key, , elements, view] = Array.isArray(id) ? id : [];
    const element = type instanceof PickleGlobal && Object.hasOwn(storageTypes, type.name);
    if (kind !== 'storage' || !element || typeof key !== 'string' || !isCount(elements)) {
      throw error(`a storage is described by ${brief(id)}; ('storage', type, key, location, size) is wanted`);
    }
    let storage = storages.get(key);
    if (!storage) {
      charge(512);
      storage = new Storage(key, storageTypes[type.name] as ElementType, elements);
      storage.place = place(storage);
      if (storage.place) checkEnd(storage, storage.place, error);
      storages.set(key, storage);
    } else if (storage.type !== storageTypes[type.name] || storage.elements !== elements) {
      throw error(
        `storage ${brief(key)} is described as ${storage.elements} ${storage.type} and as ${elements} ${storageTypes[type.name]}`,
      );
    }
    if (view === null || view === undefined) return storage;
    const [, offset, length] = Array.isArray(view) ? view : [];
    if (!isCount(offset) || !isCount(length) || offset + length > storage.elements) {
      throw error(`a view of storage ${brief(key)} with ${storage.elements} elements is ${brief(view)}`);
    }
    return new StorageView(storage, offset, length);
  };
}

function checkEnd(storage: Storage, { source, begin }: Place, error: PickleContext['error']): void {
  const found = source.size - begin;
  if (found !== storage.byteLength) {
    throw error(
      `storage ${brief(storage.key)}, ${storage.elements} ${storage.type}, needs ${storage.byteLength} bytes, it has ${found}`,
    );
  }
}

const advice = '; save a state_dict, not a whole model';

/** @throws InputError for an archive that is no plain checkpoint, with the name of what it wants to run */
export function readTorchZip(entries: ReadonlyMap<string, ZipEntry>, label: string): StoredTensors {
  const pickles = [...entries.keys()].filter((name) => /^([^/]+\/)?data\.pkl$/.test(name));
  const [path] = pickles;
  if (path === undefined || pickles.length > 1)
    throw new InputError(`${label}: ${pickles.length} entries are called data.pkl; one is wanted`);
  const root = path.slice(0, -'data.pkl'.length);
  if (entries.has(`${root}constants.pkl`))
    throw new InputError(
      `${label}: a TorchScript program, not a checkpoint; save its state_dict() with torch.save`,
    );
  const order = entries.get(`${root}byteorder`);
  const byteOrder = order ? new TextDecoder().decode(order.front(16)) : 'little';
  if (byteOrder !== 'little' && byteOrder !== 'big')
    throw new InputError(`${label}: byte order ${brief(byteOrder)} is not known; little and big are`);
  const bigEndian = byteOrder === 'big';
  const pickle = entries.get(path) as ZipEntry;
  if (pickle.size > longestPickle)
    throw new InputError(`${label}: ${path} has ${pickle.size} bytes; at most ${longestPickle} are read`);
  const storages = new Map<string, Storage>();
  const persistentLoad = storageLoader(storages, ({ key, elements }) => {
    const source = entries.get(`${root}data/${key}`);
    if (source) return { source, begin: 0, bigEndian };
    if (elements === 0) return null;
    throw new InputError(`${label}: truncated: it has no entry ${brief(`${root}data/${key}`)}`);
  });
  const value = unpickle(pickle.read(0, pickle.size), label, {
    globals: torchGlobals,
    persistentLoad,
    advice,
  });
  return flatten(value, label, tensorOf);
}

function tensorOf(value: unknown): StoredTensor | undefined {
  if (value instanceof StoredTensor) return value;
  return value instanceof NumpyArray ? value.stored() : undefined;
}

/** The integer with which the older format begins, as its own pickle. */
const magic = 0x1950a86a20f9469cfc6cn;

/**
 * magic, protocol and system info, each a pickle; then the pickle of the checkpoint; then that of the list of
 * storage keys; then each storage in that order: its number of elements in 8 bytes, and the elements.
 * @throws InputError for a pickle of anything else
 */
export function readTorchLegacy(file: ByteSource, label: string): StoredTensors {
  const globals = torchGlobals;
  const first = readPickle(file, 0, label, { globals, advice });
  if (first.value !== magic) {
    throw new InputError(
      `${label}: a pickle of Python, but not a checkpoint of PyTorch; load it there and save a state_dict with torch.save`,
    );
  }
  const protocol = readPickle(file, first.end, label);
  if (protocol.value !== 1001)
    throw new InputError(`${label}: protocol ${brief(protocol.value)} of torch.save is not known; 1001 is`);
  const system = readPickle(file, protocol.end, label);
  const bigEndian = system.value instanceof Map && system.value.get('little_endian') === false;
  const storages = new Map<string, Storage>();
  const persistentLoad = storageLoader(storages, () => null);
  const content = readPickle(file, system.end, label, { globals, persistentLoad, advice });
  const keys = readPickle(file, content.end, label);
  if (!Array.isArray(keys.value)) throw new InputError(`${label}: it has no list of storages`);

  let at = keys.end;
  const fail = (problem: string): never => {
    throw new InputError(`${label}: ${problem}`);
  };
  for (const key of keys.value) {
    const storage = typeof key === 'string' ? storages.get(key) : undefined;
    if (!storage) return fail(`it lists a storage ${brief(key)} that no tensor uses`);
    if (storage.place) fail(`it lists storage ${brief(key)} twice`);
    if (at + 8 > file.size)
      fail(`truncated: storage ${brief(key)} begins at byte ${at}, the file has ${file.size}`);
    const front = file.read(at, at + 8);
    const count = Number(new DataView(front.buffer, front.byteOffset, 8).getBigInt64(0, !bigEndian));
    if (count !== storage.elements)
      fail(`storage ${brief(key)} has ${count} elements, the pickle says ${storage.elements}`);
    storage.place = { source: file, begin: at + 8, bigEndian };
    at += 8 + storage.byteLength;
    if (at > file.size)
      fail(`truncated: storage ${brief(key)} ends at byte ${at}, the file has ${file.size}; get it again`);
  }
  if (at !== file.size) fail(`${file.size - at} bytes follow its last storage`);
  for (const { key, place } of storages.values())
    if (!place) fail(`truncated: it has no storage ${brief(key)}`);
  return flatten(content.value, label, tensorOf);
}
