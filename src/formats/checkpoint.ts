// biome-ignore-all lint/suspicious/noControlCharactersInRegex: signatures of file formats are bytes
/** Checkpoints of any format that we read, recognised by their first bytes and offered in one shape. */
import { brief, InputError } from '../engine/errors.ts';
import { type HostArray, toFloat32 } from './array.ts';
import { decodeElements, type ElementType } from './elements.ts';
import { readFlax } from './flax.ts';
import { checkNpy } from './npy.ts';
import { readNpz } from './npz.ts';
import { type OpenedFile, openFile } from './read.ts';
import { checkSafetensors } from './safetensors.ts';
import { StoredTensor, type StoredTensors } from './stored.ts';
import { readTorchLegacy, readTorchZip } from './torch.ts';
import { readZip } from './zip.ts';

export type CheckpointFormat = 'safetensors' | 'torch' | 'torch-legacy' | 'flax' | 'npz' | 'npy';

/** The tensors of a file. Each is read from disk when it is asked for; nothing is kept. */
export class Checkpoint {
  /** Keys of nested containers joined by dots, lists by position: "state_dict.conv1.weight", "params_ema.Conv_0.kernel". */
  readonly names: readonly string[];
  /** What is no tensor, by the same names, as short text. */
  readonly metadata: Readonly<Record<string, string>>;
  private readonly tensors: ReadonlyMap<string, StoredTensor>;

  constructor(
    /** Path or other name, for messages. */
    readonly label: string,
    readonly format: CheckpointFormat,
    { tensors, metadata }: StoredTensors,
    /** Closes the file; nothing can be read afterwards. */
    readonly close: () => void = () => {},
  ) {
    this.names = [...tensors.keys()];
    this.tensors = tensors;
    this.metadata = metadata;
  }

  has(name: string): boolean {
    return this.tensors.has(name);
  }

  /** @throws InputError when there is no such tensor */
  shape(name: string): number[] {
    return [...this.tensor(name).shape];
  }

  /** As stored: F32, F16, ... */
  type(name: string): ElementType {
    return this.tensor(name).type;
  }

  /** Row-major, little-endian, as many as shape and type need. @throws InputError when the file is damaged there */
  bytes(name: string): Uint8Array {
    return this.tensor(name).bytes();
  }

  /** The numbers: F16 and BF16 as Float32Array, 64-bit integers as Float64Array, else arrays of their own type. */
  array(name: string): HostArray {
    const { shape, type, bytes } = this.tensor(name);
    return { shape, data: decodeElements(type, bytes(), `${this.label}: tensor ${brief(name)}`) };
  }

  /** The numbers as 32-bit floats, whatever their type. */
  floats(name: string): Float32Array {
    return toFloat32(this.array(name).data);
  }

  private tensor(name: string): StoredTensor {
    const tensor = this.tensors.get(name);
    if (tensor) return tensor;
    const some = this.names
      .slice(0, 4)
      .map((name) => brief(name))
      .join(', ');
    throw new InputError(
      `${this.label}: no tensor ${brief(name)}; it has ${this.names.length}${some ? `: ${some}${this.names.length > 4 ? ', ...' : ''}` : ''}`,
    );
  }
}

/**
 * Opens a checkpoint: safetensors, PyTorch (zip or legacy), Flax, .npz or .npy, whatever its name. Its structure is
 * checked as a whole, its numbers are read when they are asked for, so only the largest tensor need fit into memory.
 * Call `close()` at the end.
 * @throws InputError saying in one line what is wrong, with the numbers, or what the file looks like
 */
export async function openCheckpoint(path: string): Promise<Checkpoint> {
  const file = openFile(path);
  try {
    return await readCheckpoint(file, path);
  } catch (error) {
    file.close();
    throw error;
  }
}

/** The same from an opened file, which the checkpoint's `close()` closes. */
export async function readCheckpoint(file: OpenedFile, label: string): Promise<Checkpoint> {
  const of = (format: CheckpointFormat, stored: StoredTensors) =>
    new Checkpoint(label, format, stored, file.close);
  const front = file.read(0, Math.min(512, file.size));
  const text = Buffer.from(front.buffer, front.byteOffset, front.length).toString('latin1');
  if (/^PK(\x03\x04|\x05\x06)/.test(text)) {
    const entries = await readZip(file, label);
    const names = [...entries.keys()];
    if (names.some((name) => /(^|\/)data\.pkl$/.test(name))) return of('torch', readTorchZip(entries, label));
    if (names.length > 0 && names.every((name) => name.endsWith('.npy')))
      return of('npz', readNpz(entries, label));
    throw new InputError(
      `${label}: a zip archive, but neither of PyTorch (data.pkl) nor of NumPy (.npy): it has ${names.length} entries${
        names.length > 0
          ? `: ${names
              .slice(0, 3)
              .map((name) => brief(name))
              .join(', ')}`
          : ''
      }`,
    );
  }
  if (text.startsWith('\x93NUMPY')) {
    const tensor = checkNpy(file.size, file.read, label);
    return of('npy', { tensors: new Map([['tensor', tensor]]), metadata: {} });
  }
  // The header's length is below 10^8, so four of its eight bytes are zero.
  if (text.startsWith('\0\0\0\0{', 4)) return of('safetensors', safetensors(file, label));
  if (/^\x80[\x02-\x05]/.test(text)) return of('torch-legacy', readTorchLegacy(file, label));
  const other = /^\x89(PNG|HDF)\r\n\x1a\n/.test(text);
  // A map of msgpack; 0x80, an empty one, is left to pickle.
  if (!other && /^[\x81-\x8f\xde\xdf]/.test(text)) return of('flax', readFlax(file, label));
  throw new InputError(
    `${label}: ${likely(text)}; checkpoints of safetensors, PyTorch, Flax (msgpack), .npz and .npy are read`,
  );
}

function safetensors(file: OpenedFile, label: string): StoredTensors {
  const parsed = checkSafetensors(file.size, file.read, label);
  const tensors = new Map(
    parsed.names.map((name) => [
      name,
      new StoredTensor(parsed.shape(name), parsed.type(name), () => parsed.bytes(name)),
    ]),
  );
  return { tensors, metadata: parsed.metadata };
}

const signatures: readonly (readonly [RegExp, string])[] = [
  [/^$/, 'the file is empty'],
  [/^version https:\/\/git-lfs/, 'a pointer of Git LFS, not the file itself; fetch it with "git lfs pull"'],
  [/^\s*<(!doctype|html|\?xml|head)/i, 'a web page, so the download has failed; get it again'],
  [/^\x1f\x8b/, 'compressed by gzip; unpack it first'],
  [/^\x28\xb5\x2f\xfd/, 'compressed by zstd; unpack it first'],
  [/^.{257}ustar/s, 'a tar archive; unpack it first'],
  [/^\x89HDF/, 'an HDF5 file; save its arrays as .npz'],
  [/^\x89PNG|^\xff\xd8\xff/, 'an image'],
  [/^\s*[[{]"?/, 'a text of JSON'],
];

/** What the first bytes look like. */
function likely(text: string): string {
  for (const [pattern, name] of signatures) if (pattern.test(text)) return `not a checkpoint: ${name}`;
  const bytes = Array.from(text.slice(0, 8), (c) => c.charCodeAt(0).toString(16).padStart(2, '0')).join(' ');
  return `not a checkpoint that is known: it begins with the bytes ${bytes}`;
}
