/** IDX files are often gzipped. */
import { gunzipSync } from 'node:zlib';
import { formatBytes, InputError } from '../engine/errors.ts';

/** The most bytes that a gzipped file may unfold to. */
const mostInflated = 2 ** 29;

/** The bytes of a file, gunzipped where they are gzipped. @throws InputError for damaged gzip data */
export function unpackIdx(file: Uint8Array, label: string): Uint8Array {
  if (file[0] !== 0x1f || file[1] !== 0x8b) return file;
  try {
    return Uint8Array.from(gunzipSync(file, { maxOutputLength: mostInflated }));
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ERR_BUFFER_TOO_LARGE')
      throw new InputError(`${label}: unfolds to more than ${formatBytes(mostInflated)}`);
    throw new InputError(
      `${label}: damaged gzip data (${file.length} bytes): ${message}; get the file again`,
    );
  }
}
