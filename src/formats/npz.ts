/** NumPy's .npz: a zip archive of .npy files, stored or deflated. */
import { brief, InputError } from '../engine/errors.ts';
import { checkNpy } from './npy.ts';
import { StoredTensor, type StoredTensors } from './stored.ts';
import type { ZipEntry } from './zip.ts';

/** Bytes of a deflated entry that are inflated to learn its shape. */
const frontBytes = 4096;

/**
 * The arrays of an archive by their names without ".npy".
 * @throws InputError for an entry that is no .npy file, or whose size does not fit its shape
 */
export function readNpz(entries: ReadonlyMap<string, ZipEntry>, label: string): StoredTensors {
  const tensors = new Map<string, StoredTensor>();
  for (const [path, entry] of entries) {
    if (!path.endsWith('.npy')) throw new InputError(`${label}: entry ${brief(path)} is no .npy file`);
    const name = path.slice(0, -4);
    tensors.set(name, checkEntry(entry, `${label}: array ${brief(name)}`));
  }
  return { tensors, metadata: {} };
}

function checkEntry(entry: ZipEntry, what: string): StoredTensor {
  // The header is read from the front; what it asks beyond that, data above all, from the whole.
  const front = entry.front(frontBytes);
  const header = checkNpy(
    entry.size,
    (begin, end) => (end <= front.length ? front.subarray(begin, end) : entry.read(begin, end)),
    what,
  );
  return new StoredTensor(header.shape, header.type, () =>
    checkNpy(entry.size, sliced(entry.read(0, entry.size)), what).bytes(),
  );
}

function sliced(bytes: Uint8Array): (begin: number, end: number) => Uint8Array {
  return (begin, end) => bytes.subarray(begin, end);
}
