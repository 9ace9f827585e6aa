/**
 * Python's pickle, read as data: protocols 0 to 5, without ever running anything. A pickle is a program for a
 * small stack machine; the only functions it can reach are those of a table, written here or given by the
 * caller, and any other is refused by name. Nothing recurses, and memory is bounded: a length beyond the end of
 * the file is refused before anything is allocated, all else is charged to a budget.
 *
 * What comes out: None, bool, float and str as they are; int a number, or a bigint beyond 2^53; bytes and
 * bytearray a Uint8Array; a str of Python 2 a string of Latin-1 characters; list and tuple an array; dict and
 * OrderedDict a Map; set and frozenset a Set; complex [re, im]; a NumPy array a NumpyArray, a NumPy number a number.
 */
import { formatBytes, InputError } from '../engine/errors.ts';
import { elementCount, type HostArray } from './array.ts';
import { decodeElements, type ElementType, elementBytes, swapBytes } from './elements.ts';
import { columnStrides, numpyTypes } from './npy.ts';
import { type ByteSource, Cursor } from './read.ts';
import { rowMajor, StoredTensor } from './stored.ts';

/** What a function of the table may use. */
export interface PickleContext {
  /** An error to throw, with the file's name and the place in it. */
  error(problem: string): InputError;
  /** Charges memory that the function is about to allocate, in bytes. */
  charge(bytes: number): void;
}

export type PickleCall = (args: readonly unknown[], context: PickleContext) => unknown;

/** A class or function as a pickle names it; `call` is null for one that is only referred to, as a dtype is. */
export class PickleGlobal {
  constructor(
    readonly name: string,
    readonly call: PickleCall | null,
  ) {}

  toString(): string {
    return this.name;
  }
}

/** Functions by "module.name"; null for what may be named but not called. */
export type PickleGlobals = Readonly<Record<string, PickleCall | null>>;

/** An object that takes the state which the opcode BUILD gives it. */
export interface Stateful {
  setState(state: unknown, context: PickleContext): void;
}

export interface PickleOptions {
  /** Allowed besides `plainGlobals` and `numpyGlobals`. */
  readonly globals?: PickleGlobals;
  /** Resolves a persistent id, by which a file refers to what lies outside its pickle. */
  readonly persistentLoad?: (id: unknown, context: PickleContext) => unknown;
  /** Appended to the refusal of a global: the way out. */
  readonly advice?: string;
  /** Bytes that containers and function results may take; the default is 512 MiB. */
  readonly budget?: number;
}

const defaultBudget = 512 * 2 ** 20;
/** What an opcode may leave on the stack or in the memo, and an empty container; V8's sizes, rounded up. */
const opcodeBytes = 48;
const containerBytes = 192;

/** An array as NumPy pickles it. The bytes may be a view of the file. */
export class NumpyArray implements Stateful {
  shape: readonly number[] = [0];
  dtype = new NumpyDtype('V0');
  fortran = false;
  bytes: Uint8Array = new Uint8Array(0);

  /** state: (version, shape, dtype, is_fortran, bytes) */
  setState(state: unknown, { error, charge }: PickleContext): void {
    if (!Array.isArray(state) || state.length < 4)
      throw error('the state of a NumPy array is not understood');
    const [shape, dtype, fortran, content] = state.slice(-4);
    let bytes = content;
    if (typeof content === 'string') {
      charge(content.length);
      bytes = Buffer.from(content, 'latin1');
    }
    this.fill(shape, dtype, Boolean(fortran), bytes, error);
  }

  /** @throws InputError when the bytes do not fit the shape */
  fill(
    shape: unknown,
    dtype: unknown,
    fortran: boolean,
    bytes: unknown,
    error: PickleContext['error'],
  ): void {
    if (!isSizes(shape))
      throw error(`a NumPy array has shape ${brief(shape)}; sizes are integers of at least 0`);
    if (!(dtype instanceof NumpyDtype)) throw error('a NumPy array has no dtype');
    const { type } = dtype;
    if (type) {
      const needed = elementCount(shape) * elementBytes[type];
      const found = bytes instanceof Uint8Array ? bytes.length : 0;
      if (needed !== found) {
        throw error(
          `a NumPy array of ${dtype} and shape (${shape.join(', ')}) needs ${needed} bytes, it has ${found}`,
        );
      }
    }
    this.shape = shape;
    this.dtype = dtype;
    this.fortran = fortran;
    if (bytes instanceof Uint8Array) this.bytes = bytes;
  }

  /** The same as other files store theirs; undefined for a dtype that is no number. */
  stored(): StoredTensor | undefined {
    const { type } = this.dtype;
    if (!type) return undefined;
    return new StoredTensor(this.shape, type, () => {
      const bytes = this.dtype.littleEndian(this.bytes);
      return this.fortran
        ? rowMajor(bytes, elementBytes[type], this.shape, columnStrides(this.shape))
        : bytes;
    });
  }

  /** The numbers in C order and this machine's byte order. @throws InputError for a dtype that is no number */
  array(what: string): HostArray {
    const stored = this.stored();
    if (!stored) {
      throw new InputError(
        `${what}: NumPy dtype ${this.dtype} is not supported; save it as one of ${Object.keys(numpyTypes).join(' ')}`,
      );
    }
    return { shape: this.shape, data: decodeElements(stored.type, stored.bytes(), what) };
  }

  toString(): string {
    return `NumPy ${this.dtype} of shape (${this.shape.join(', ')})`;
  }
}

/** A NumPy dtype: its code without the byte order, such as "f4", and the order. */
export class NumpyDtype implements Stateful {
  order = '<';
  constructor(readonly code: string) {}

  /** state: (version, byte order, ...) */
  setState(state: unknown, { error }: PickleContext): void {
    const order = Array.isArray(state) ? state[1] : undefined;
    if (typeof order !== 'string' || !/^[<>|=]$/.test(order))
      throw error('the state of a NumPy dtype is not understood');
    this.order = order;
  }

  /** The element type, undefined where it is no number. */
  get type(): ElementType | undefined {
    const single = elementName(`|${this.code}`);
    return single ?? elementName(`<${this.code}`);
  }

  littleEndian(bytes: Uint8Array): Uint8Array {
    return this.order === '>' ? swapBytes(bytes, elementBytes[this.type as ElementType]) : bytes;
  }

  toString(): string {
    return brief(`${this.order}${this.code}`).slice(1, -1);
  }
}

function elementName(descr: string): ElementType | undefined {
  return Object.hasOwn(numpyTypes, descr) ? numpyTypes[descr] : undefined;
}

const toSet: PickleCall = ([items = []], { error, charge }) => {
  if (!Array.isArray(items)) throw error('a set is made of something that is no list');
  charge(containerBytes + 48 * items.length);
  return new Set(items);
};

const toMap: PickleCall = ([pairs = []], { error, charge }) => {
  if (pairs instanceof Map) return pairs;
  if (!Array.isArray(pairs)) throw error('a dict is made of something that is no list of pairs');
  charge(containerBytes + 64 * pairs.length);
  const map = new Map<unknown, unknown>();
  for (const pair of pairs) {
    if (!Array.isArray(pair) || pair.length !== 2) throw error('a dict is made of something that is no pair');
    map.set(pair[0], pair[1]);
  }
  return map;
};

/** bytes("...", "latin-1"), bytes(b"...") and bytes(); a number would ask for that many zeros. */
const toBytes: PickleCall = ([content, encoding], context) => {
  if (content === undefined) return new Uint8Array(0);
  if (content instanceof Uint8Array) return content;
  if (typeof content === 'string') return encode([content, encoding ?? 'latin1'], context);
  throw context.error('bytes are made of something that is neither bytes nor text');
};

const encode: PickleCall = ([text, encoding = 'utf-8'], { error, charge }) => {
  const name = typeof encoding === 'string' ? encoding.toLowerCase().replaceAll(/[-_]/g, '') : '';
  if (typeof text !== 'string') throw error('_codecs.encode is given something that is no text');
  if (!['latin1', 'iso88591', 'ascii', 'utf8'].includes(name))
    throw error(`_codecs.encode is asked for ${brief(encoding)}; latin1 and utf-8 are known`);
  charge(2 * text.length);
  return new Uint8Array(Buffer.from(text, name === 'utf8' ? 'utf8' : 'latin1'));
};

const toNumber: PickleCall = ([value = 0], { error }) => {
  if (typeof value === 'number' || typeof value === 'bigint') return value;
  if (typeof value === 'boolean') return Number(value);
  const number = typeof value === 'string' && value.length < 100 ? Number(value) : Number.NaN;
  if (Number.isNaN(number) && value !== 'nan') throw error(`a number is made of ${brief(value)}`);
  return number;
};

const toList: PickleCall = ([items = []], { error }) => {
  if (!Array.isArray(items)) throw error('a list is made of something that is no list');
  return items;
};

const toText: PickleCall = ([value = ''], { error }) => {
  if (typeof value !== 'string') throw error('a str is made of something that is no text');
  return value;
};

/** Python's own containers and numbers. */
const plainGlobals: PickleGlobals = {
  'builtins.object': null,
  'builtins.set': toSet,
  'builtins.frozenset': toSet,
  'builtins.bytes': toBytes,
  'builtins.bytearray': toBytes,
  'builtins.list': toList,
  'builtins.tuple': toList,
  'builtins.dict': toMap,
  'builtins.int': toNumber,
  'builtins.long': toNumber,
  'builtins.float': toNumber,
  'builtins.bool': ([value]) => Boolean(value),
  'builtins.str': toText,
  'builtins.complex': ([re = 0, im = 0]) => [re, im],
  'collections.OrderedDict': toMap,
  // The factory is of no use to data.
  'collections.defaultdict': (args, context) => toMap(args.slice(1), context),
  'collections.Counter': toMap,
  '_codecs.encode': encode,
};

const scalar: PickleCall = ([dtype, content], { error, charge }) => {
  if (!(dtype instanceof NumpyDtype)) throw error('a NumPy number has no dtype');
  const bytes = typeof content === 'string' ? Buffer.from(content, 'latin1') : content;
  charge(256 + (bytes instanceof Uint8Array ? bytes.length : 0));
  const array = new NumpyArray();
  array.fill([], dtype, false, bytes, error);
  return dtype.type ? array.array('a NumPy number').data[0] : array;
};

const dtype: PickleCall = ([code], { error, charge }) => {
  charge(128);
  if (typeof code !== 'string' || code.length > 64) throw error(`a NumPy dtype is called ${brief(code)}`);
  return new NumpyDtype(code.replace(/^[<>|=]/, ''));
};

const reconstruct: PickleCall = (_, { charge }) => {
  charge(256);
  return new NumpyArray();
};

const fromBuffer: PickleCall = ([content, dtype, shape, order], { error, charge }) => {
  charge(256);
  const array = new NumpyArray();
  array.fill(shape, dtype, order === 'F', content, error);
  return array;
};

/** NumPy's arrays, dtypes and numbers, under the module names of NumPy 1 and 2. */
const numpyGlobals: PickleGlobals = {
  'numpy.ndarray': null,
  'numpy.dtype': dtype,
  ...Object.fromEntries(
    ['numpy.core', 'numpy._core'].flatMap((core) => [
      [`${core}.multiarray._reconstruct`, reconstruct],
      [`${core}.multiarray.scalar`, scalar],
      [`${core}.numeric._frombuffer`, fromBuffer],
    ]),
  ),
};

/**
 * Reads a pickle that is the whole of `source`.
 * @param label names the file in errors
 * @throws InputError of one line for anything that is not plain data
 */
export function unpickle(
  source: Uint8Array | ByteSource,
  label: string,
  options: PickleOptions = {},
): unknown {
  const { value, end } = readPickle(source, 0, label, options);
  const size = source instanceof Uint8Array ? source.length : source.size;
  if (end !== size) throw new InputError(`${label}: ${size - end} bytes follow the end of its pickle`);
  return value;
}

/** Reads the pickle that begins at `begin`; the byte behind it is `end`. @throws InputError */
export function readPickle(
  source: Uint8Array | ByteSource,
  begin: number,
  label: string,
  options: PickleOptions = {},
): { value: unknown; end: number } {
  return new Machine(source, begin, label, options).run();
}

const utf8 = new TextDecoder('utf-8', { ignoreBOM: true });
/** A line of text: a number, or a name. Text of protocol 0 may be longer. */
const longestLine = 4096;

class Machine {
  private readonly input: Cursor;
  private opcodeAt: number;
  private spent = 0;
  private readonly budget: number;
  private readonly tables: readonly PickleGlobals[];
  private readonly memo = new Map<number, unknown>();
  private stack: unknown[] = [];
  /** Heights of the stack at its marks. */
  private readonly marks: number[] = [];
  private readonly context: PickleContext;

  constructor(
    source: Uint8Array | ByteSource,
    begin: number,
    private readonly label: string,
    private readonly options: PickleOptions,
  ) {
    this.input = new Cursor(source, begin, (wanted, left) =>
      this.error(`truncated: ${wanted} bytes are wanted, ${left} are left`),
    );
    this.opcodeAt = begin;
    this.budget = options.budget ?? defaultBudget;
    this.tables = [options.globals ?? {}, numpyGlobals, plainGlobals];
    this.context = { error: (problem) => this.error(problem), charge: (bytes) => this.charge(bytes) };
  }

  private error(problem: string): InputError {
    return new InputError(`${this.label}: pickle, byte ${this.opcodeAt}: ${problem}`);
  }

  private charge(bytes: number): void {
    this.spent += bytes;
    if (this.spent > this.budget)
      throw this.error(`its contents need more than ${formatBytes(this.budget)}; this is no file of numbers`);
  }

  private unsigned(n: 1 | 2 | 4): number {
    const bytes = this.input.take(n);
    let value = 0;
    for (let i = n - 1; i >= 0; i--) value = value * 256 + (bytes[i] as number);
    return value;
  }

  /** A length of 8 bytes; one beyond 2^53 is rounded, and refused later as beyond the end. */
  private length8(): number {
    const low = this.unsigned(4);
    return low + this.unsigned(4) * 2 ** 32;
  }

  /** Up to the next newline, which is dropped. */
  private line(longest = longestLine): string {
    const parts: string[] = [];
    let length = 0;
    for (;;) {
      const n = Math.min(256, this.input.size - this.input.at);
      if (n === 0) throw this.error('truncated: a line does not end');
      const chunk = this.input.take(n);
      const newline = chunk.indexOf(10);
      const used = newline < 0 ? n : newline;
      length += used;
      if (length > longest) throw this.error(`a line has more than ${longest} bytes`);
      parts.push(latin1(chunk.subarray(0, used)));
      if (newline >= 0) {
        this.input.at -= n - newline - 1;
        return parts.join('');
      }
    }
  }

  private pop(): unknown {
    const floor = this.marks[this.marks.length - 1] ?? 0;
    if (this.stack.length <= floor) throw this.error('its stack is empty');
    return this.stack.pop();
  }

  private top(): unknown {
    const floor = this.marks[this.marks.length - 1] ?? 0;
    if (this.stack.length <= floor) throw this.error('its stack is empty');
    return this.stack[this.stack.length - 1];
  }

  /** Everything above the last mark, which is removed too. */
  private popMark(): unknown[] {
    const mark = this.marks.pop();
    if (mark === undefined) throw this.error('it has no mark');
    return this.stack.splice(mark);
  }

  private push(value: unknown): void {
    this.stack.push(value);
  }

  private container<T>(value: T): void {
    this.charge(containerBytes);
    this.stack.push(value);
  }

  /** The global "module.name", under Python 3's name of the module. */
  private global(module: unknown, name: unknown): PickleGlobal {
    if (typeof module !== 'string' || typeof name !== 'string') throw this.error('a global has no name');
    const path = `${module === '__builtin__' ? 'builtins' : module}.${name}`;
    const table = this.tables.find((globals) => Object.hasOwn(globals, path));
    if (table) return new PickleGlobal(path, table[path] ?? null);
    throw this.error(
      `it uses ${brief(path).slice(1, -1)}; only arrays, tensors and plain containers are allowed, and nothing was run${this.options.advice ?? ''}`,
    );
  }

  private call(callee: unknown, args: unknown): unknown {
    if (!(callee instanceof PickleGlobal)) throw this.error('it calls something that is no function');
    if (!Array.isArray(args)) throw this.error(`it calls ${callee.name} without a tuple of arguments`);
    if (!callee.call) throw this.error(`it calls ${callee.name}, which may only be named`);
    return callee.call(args, this.context);
  }

  private persistent(id: unknown): unknown {
    if (!this.options.persistentLoad) throw this.error('it refers to something outside of it');
    return this.options.persistentLoad(id, this.context);
  }

  private setItems(target: unknown, items: readonly unknown[]): void {
    if (!(target instanceof Map)) throw this.error('it sets an item of something that is no dict');
    if (items.length % 2 === 1) throw this.error('a dict has a key without a value');
    for (let i = 0; i < items.length; i += 2) target.set(items[i], items[i + 1]);
  }

  private append(target: unknown, items: readonly unknown[]): void {
    if (!Array.isArray(target)) throw this.error('it appends to something that is no list');
    for (const item of items) target.push(item);
  }

  private build(target: unknown, state: unknown): void {
    if (target !== null && typeof target === 'object' && 'setState' in target) {
      (target as Stateful).setState(state, this.context);
    } else if (!(target instanceof Map)) {
      throw this.error('it gives a state to something that has none');
    }
    // The attributes of an OrderedDict, as of a state_dict, are the versions of modules; they are not needed.
  }

  /** A little-endian two's complement integer of n bytes. */
  private long(n: number): number | bigint {
    if (n > 1024) throw this.error(`an integer has ${n} bytes; at most 1024 are read`);
    if (n === 0) return 0;
    const bytes = this.input.take(n);
    let hex = '';
    for (let i = n - 1; i >= 0; i--) hex += (bytes[i] as number).toString(16).padStart(2, '0');
    return narrow(BigInt.asIntN(8 * n, BigInt(`0x${hex}`)));
  }

  private decimal(text: string): number | bigint {
    if (!/^[+-]?\d{1,2000}$/.test(text)) throw this.error(`${brief(text)} is no integer`);
    return narrow(BigInt(text.replace(/^\+/, '')));
  }

  run(): { value: unknown; end: number } {
    for (;;) {
      this.opcodeAt = this.input.at;
      this.charge(opcodeBytes);
      const opcode = this.unsigned(1);
      switch (String.fromCharCode(opcode)) {
        case '.': {
          if (this.marks.length > 0) throw this.error('it stops at an open mark');
          const value = this.pop();
          if (this.stack.length > 0) throw this.error(`it leaves ${this.stack.length} values on its stack`);
          return { value, end: this.input.at };
        }
        case '\x80': {
          const protocol = this.unsigned(1);
          if (protocol > 5) throw this.error(`protocol ${protocol} is not known; 0 to 5 are`);
          break;
        }
        case '\x95': {
          const length = this.length8();
          if (length > this.input.size - this.input.at)
            throw this.error(
              `truncated: a frame has ${length} bytes, ${this.input.size - this.input.at} are left`,
            );
          break;
        }
        // Stack.
        case '(':
          this.marks.push(this.stack.length);
          break;
        case '0':
          // Python pops a mark as it pops a value.
          if (this.stack.length === this.marks[this.marks.length - 1]) this.marks.pop();
          else this.pop();
          break;
        case '1':
          this.popMark();
          break;
        case '2':
          this.push(this.top());
          break;
        // Constants and numbers.
        case 'N':
          this.push(null);
          break;
        case '\x88':
          this.push(true);
          break;
        case '\x89':
          this.push(false);
          break;
        case 'I': {
          const text = this.line();
          this.push(text === '00' ? false : text === '01' ? true : this.decimal(text));
          break;
        }
        case 'L':
          this.push(this.decimal(this.line().replace(/L$/, '')));
          break;
        case 'J':
          this.push(this.unsigned(4) | 0);
          break;
        case 'K':
          this.push(this.unsigned(1));
          break;
        case 'M':
          this.push(this.unsigned(2));
          break;
        case '\x8a':
          this.push(this.long(this.unsigned(1)));
          break;
        case '\x8b':
          this.push(this.long(this.unsigned(4)));
          break;
        case 'F': {
          const text = this.line();
          const value = Number(text.replace(/^([+-]?)inf$/, '$1Infinity'));
          if (text.trim() === '' || (Number.isNaN(value) && text !== 'nan'))
            throw this.error(`${brief(text)} is no float`);
          this.push(value);
          break;
        }
        case 'G': {
          const bytes = this.input.take(8);
          this.push(new DataView(bytes.buffer, bytes.byteOffset, 8).getFloat64(0));
          break;
        }
        // Text and bytes.
        case 'S':
          this.push(this.quoted(this.line(this.input.size)));
          break;
        case 'T':
          this.push(this.latin1(this.unsigned(4)));
          break;
        case 'U':
          this.push(this.latin1(this.unsigned(1)));
          break;
        case 'V':
          this.push(
            this.line(this.input.size).replaceAll(
              /\\u([0-9a-fA-F]{4})|\\U000([0-9a-fA-F]{5})/g,
              (_, short, long) =>
                short
                  ? String.fromCharCode(Number.parseInt(short, 16))
                  : String.fromCodePoint(Number.parseInt(long, 16)),
            ),
          );
          break;
        case 'X':
          this.push(utf8.decode(this.text(this.unsigned(4))));
          break;
        case '\x8c':
          this.push(utf8.decode(this.input.take(this.unsigned(1))));
          break;
        case '\x8d':
          this.push(utf8.decode(this.text(this.length8())));
          break;
        case 'B':
          this.push(this.input.keep(this.unsigned(4)));
          break;
        case 'C':
          this.push(this.input.keep(this.unsigned(1)));
          break;
        case '\x8e':
        case '\x96':
          this.push(this.input.keep(this.length8()));
          break;
        // Containers.
        case ')':
        case ']':
          this.container([]);
          break;
        case '}':
          this.container(new Map());
          break;
        case '\x8f':
          this.container(new Set());
          break;
        case 't':
        case 'l':
          this.container(this.popMark());
          break;
        case 'd': {
          const items = this.popMark();
          const map = new Map();
          this.setItems(map, items);
          this.container(map);
          break;
        }
        case '\x85':
          this.container([this.pop()]);
          break;
        case '\x86': {
          const b = this.pop();
          this.container([this.pop(), b]);
          break;
        }
        case '\x87': {
          const c = this.pop();
          const b = this.pop();
          this.container([this.pop(), b, c]);
          break;
        }
        case '\x91':
          this.container(new Set(this.popMark()));
          break;
        case 'a': {
          const item = this.pop();
          this.append(this.top(), [item]);
          break;
        }
        case 'e': {
          const items = this.popMark();
          this.append(this.top(), items);
          break;
        }
        case 's': {
          const value = this.pop();
          const key = this.pop();
          this.setItems(this.top(), [key, value]);
          break;
        }
        case 'u': {
          const items = this.popMark();
          this.setItems(this.top(), items);
          break;
        }
        case '\x90': {
          const items = this.popMark();
          const set = this.top();
          if (!(set instanceof Set)) throw this.error('it adds to something that is no set');
          for (const item of items) set.add(item);
          break;
        }
        // Memo.
        case 'p':
          this.memo.set(Number(this.decimal(this.line())), this.top());
          break;
        case 'q':
          this.memo.set(this.unsigned(1), this.top());
          break;
        case 'r':
          this.memo.set(this.unsigned(4), this.top());
          break;
        case '\x94':
          this.memo.set(this.memo.size, this.top());
          break;
        case 'g':
          this.recall(Number(this.decimal(this.line())));
          break;
        case 'h':
          this.recall(this.unsigned(1));
          break;
        case 'j':
          this.recall(this.unsigned(4));
          break;
        // Globals and what is made with them.
        case 'c': {
          const module = this.line();
          this.push(this.global(module, this.line()));
          break;
        }
        case '\x93': {
          const name = this.pop();
          this.push(this.global(this.pop(), name));
          break;
        }
        case 'R':
        case '\x81': {
          const args = this.pop();
          this.push(this.call(this.pop(), args));
          break;
        }
        case '\x92': {
          const named = this.pop();
          const args = this.pop();
          if (!(named instanceof Map) || named.size > 0)
            throw this.error('it calls a function with named arguments');
          this.push(this.call(this.pop(), args));
          break;
        }
        case 'i': {
          const module = this.line();
          const callee = this.global(module, this.line());
          this.push(this.call(callee, this.popMark()));
          break;
        }
        case 'o': {
          const [callee, ...args] = this.popMark();
          this.push(this.call(callee, args));
          break;
        }
        case 'b': {
          const state = this.pop();
          this.build(this.top(), state);
          break;
        }
        case 'P':
          this.push(this.persistent(this.line()));
          break;
        case 'Q':
          this.push(this.persistent(this.pop()));
          break;
        default:
          throw this.error(
            `opcode 0x${opcode.toString(16).padStart(2, '0')} is not supported; a pickle of protocol 0 to 5 without extensions and outside buffers is wanted`,
          );
      }
    }
  }

  private recall(index: number): void {
    const value = this.memo.get(index);
    if (value === undefined) throw this.error(`it recalls entry ${index}, which it never stored`);
    this.push(value);
  }

  /** Bytes of text; V8 holds no longer string. */
  private text(n: number): Uint8Array {
    if (n > 2 ** 28) throw this.error(`a text has ${n} bytes; at most ${2 ** 28} are read`);
    return this.input.take(n);
  }

  private latin1(n: number): string {
    return latin1(this.text(n));
  }

  /** Python's repr of a str of bytes. */
  private quoted(line: string): string {
    const body = /^'(.*)'\s*$/s.exec(line)?.[1] ?? /^"(.*)"\s*$/s.exec(line)?.[1];
    if (body === undefined) throw this.error(`${brief(line)} is no quoted text`);
    return body.replaceAll(/\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.)/gs, (_, code: string) => {
      if (/^x./.test(code)) return String.fromCharCode(Number.parseInt(code.slice(1), 16));
      if (/^[0-7]/.test(code)) return String.fromCharCode(Number.parseInt(code, 8) & 255);
      return escapes[code] ?? code;
    });
  }
}

const escapes: Readonly<Record<string, string>> = {
  n: '\n',
  r: '\r',
  t: '\t',
  a: '\x07',
  b: '\b',
  f: '\f',
  v: '\v',
};

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1');
}

/** A number where it is exact. */
function narrow(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

function isSizes(value: unknown): value is number[] {
  return (
    Array.isArray(value) &&
    value.length <= 64 &&
    value.every((size) => Number.isSafeInteger(size) && size >= 0)
  );
}

/** A value on one line and cut to a length fit for a message; containers by their kind alone, as they may be cyclic. */
export function brief(value: unknown): string {
  if (typeof value === 'string')
    return JSON.stringify(value.length > 60 ? `${value.slice(0, 57)}...` : value);
  if (typeof value === 'bigint') return value.toString().slice(0, 60);
  if (isFlat(value)) return `(${value.map((item) => String(item)).join(', ')})`;
  if (value === null || typeof value !== 'object') return value === null ? 'None' : String(value);
  return value instanceof PickleGlobal ? value.name : `a ${value.constructor?.name ?? 'object'}`;
}

function isFlat(value: unknown): value is (number | boolean | null)[] {
  return (
    Array.isArray(value) &&
    value.length <= 8 &&
    value.every((item) => item === null || typeof item === 'number' || typeof item === 'boolean')
  );
}
