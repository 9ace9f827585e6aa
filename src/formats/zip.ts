/** Zip archives, as PyTorch and NumPy write them: the directory by yauzl, entries read where they lie. */
import { constants, crc32, inflateRawSync } from 'node:zlib';
import { fromRandomAccessReaderPromise, RandomAccessReader } from 'yauzl';
import { brief, formatBytes, InputError } from '../engine/errors.ts';
import type { ByteSource } from './read.ts';

/** The contents of one file of an archive. */
export interface ZipEntry extends ByteSource {
  /** Deflated entries are inflated whole for each read. */
  readonly deflated: boolean;
  /**
   * Bytes begin..end (exclusive).
   * @throws InputError when the CRC-32 of the entry is not that of the directory, or its deflated data is damaged
   */
  read(begin: number, end: number): Uint8Array;
  /** About the first `n` bytes, at the cost of those alone. */
  front(n: number): Uint8Array;
}

const mostEntries = 100_000;
/** An inflated entry lies in memory whole. */
const mostInflated = 2 ** 30;
const pieceBytes = 2 ** 24;

/** What the archive library reads through; it never learns of a file. */
class SourceReader extends RandomAccessReader {
  constructor(private readonly source: ByteSource) {
    super();
  }

  override read(
    buffer: Buffer,
    offset: number,
    length: number,
    position: number,
    callback: (error: Error | null) => void,
  ): void {
    try {
      buffer.set(this.source.read(position, position + length), offset);
    } catch (error) {
      callback(error as Error);
      return;
    }
    callback(null);
  }
}

/**
 * The entries of an archive by name, folders left out. Sizes and places are checked here.
 * @throws InputError for what is no whole archive, for encrypted entries, duplicate names, and entries that would
 * inflate beyond 1 GiB or faster than deflate can
 */
export async function readZip(source: ByteSource, label: string): Promise<Map<string, ZipEntry>> {
  const entries = new Map<string, ZipEntry>();
  try {
    const zip = await fromRandomAccessReaderPromise(new SourceReader(source), source.size, {
      autoClose: false,
    });
    for await (const entry of zip.eachEntry()) {
      const { fileName: name, compressedSize, uncompressedSize, compressionMethod: method } = entry;
      const fail = (problem: string): never => {
        throw new InputError(`${label}: entry ${brief(name)} ${problem}`);
      };
      if (name.endsWith('/')) continue;
      if (entries.has(name)) fail('is there twice');
      if (entries.size >= mostEntries) fail(`is one of more than ${mostEntries}`);
      if (entry.isEncrypted()) fail('is encrypted; store the archive without a password');
      if (method !== 0 && method !== 8)
        fail(`is compressed by method ${method}; stored and deflated entries are read`);
      const { fileDataStart: begin } = await zip.readLocalFileHeaderPromise(entry, { minimal: true });
      if (begin + compressedSize > source.size) {
        fail(`is truncated: it ends at byte ${begin + compressedSize}, the file has ${source.size}`);
      }
      if (method === 8) {
        // Deflate makes at most 1032 bytes of one.
        if (uncompressedSize > 1032 * compressedSize + 64)
          fail(`claims to inflate from ${compressedSize} to ${uncompressedSize} bytes, which deflate cannot`);
        if (uncompressedSize > mostInflated)
          fail(`inflates to ${formatBytes(uncompressedSize)}; store it uncompressed`);
      }
      entries.set(
        name,
        entryOf(source, label, name, begin, compressedSize, uncompressedSize, method === 8, entry.crc32),
      );
    }
  } catch (error) {
    if (error instanceof InputError) throw error;
    const [problem] = (error as Error).message.split('\n');
    throw new InputError(`${label}: not a whole zip archive: ${problem}`);
  }
  return entries;
}

function entryOf(
  source: ByteSource,
  label: string,
  name: string,
  begin: number,
  stored: number,
  size: number,
  deflated: boolean,
  crc: number,
): ZipEntry {
  const whole = (): Uint8Array => {
    const raw = source.read(begin, begin + stored);
    const bytes = deflated ? inflate(raw) : raw;
    check(crc32(bytes));
    return bytes;
  };
  const check = (found: number) => {
    if (found !== crc) {
      throw new InputError(
        `${label}: entry ${brief(name)} is damaged: its CRC-32 is ${hex(found)}, the archive says ${hex(crc)}`,
      );
    }
  };
  let intact = false;
  /** The whole stored entry, once, a piece at a time: of a storage that tensors share only parts are read. */
  const checkStored = () => {
    if (intact) return;
    let found = 0;
    for (let at = 0; at < stored; at += pieceBytes)
      found = crc32(source.read(begin + at, begin + Math.min(stored, at + pieceBytes)), found);
    check(found);
    intact = true;
  };
  const inflate = (raw: Uint8Array): Uint8Array => {
    let bytes: Uint8Array;
    try {
      bytes = inflateRawSync(raw, { maxOutputLength: Math.max(1, size) });
    } catch (error) {
      throw new InputError(
        `${label}: entry ${brief(name)} does not inflate to its ${size} bytes: ${(error as Error).message}`,
      );
    }
    if (bytes.length !== size) {
      throw new InputError(
        `${label}: entry ${brief(name)} inflates to ${bytes.length} bytes, the archive says ${size}`,
      );
    }
    return bytes;
  };
  return {
    size,
    deflated,
    read(from, to) {
      if (from === 0 && to === size) return whole();
      if (deflated) return whole().subarray(from, to);
      checkStored();
      return source.read(begin + from, begin + to);
    },
    front(n) {
      if (!deflated) return source.read(begin, begin + Math.min(n, size));
      // Deflate never needs more than a few bytes above what it makes.
      const raw = source.read(begin, begin + Math.min(stored, n + 64));
      try {
        const bytes = inflateRawSync(raw, { finishFlush: constants.Z_SYNC_FLUSH });
        return bytes.subarray(0, Math.min(n, size));
      } catch (error) {
        throw new InputError(`${label}: entry ${brief(name)} does not inflate: ${(error as Error).message}`);
      }
    },
  };
}

function hex(crc: number): string {
  return crc.toString(16).padStart(8, '0');
}
