/** Reading files that a user names: every failure is an InputError of one line with the path. */
import { closeSync, constants, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import { formatBytes, InputError } from '../engine/errors.ts';

const reasons: Record<string, string> = {
  ENOENT: 'there is no such file',
  EACCES: 'you may not read it',
  EPERM: 'you may not read it',
  EISDIR: 'it is a folder',
  ENOTDIR: 'a part of its path is not a folder',
  ELOOP: 'its links go round in circles',
  EMFILE: 'too many files are open',
  ENAMETOOLONG: 'its name is too long',
};

/** An operating system's refusal in words. */
export function cannotRead(path: string, error: unknown): InputError {
  const { code = '', message } = error as NodeJS.ErrnoException;
  return new InputError(`${path}: cannot read it: ${reasons[code] ?? (code || message)}`, { cause: error });
}

/** Bytes that can be read at any place, such as an opened file. */
export interface ByteSource {
  readonly size: number;
  /** Bytes begin..end (exclusive). */
  read(begin: number, end: number): Uint8Array;
}

export interface OpenedFile extends ByteSource {
  /** Bytes begin..end (exclusive) in memory of their own. */
  read(begin: number, end: number): Uint8Array;
  close(): void;
}

/** The operating system reads no more at once. */
const longestRead = 2 ** 30;

/** Opens a regular file for reading at positions. @throws InputError */
export function openFile(path: string): OpenedFile {
  let descriptor: number;
  try {
    // A pipe without a writer would be waited for.
    descriptor = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw cannotRead(path, error);
  }
  const status = fstatSync(descriptor);
  if (!status.isFile()) {
    closeSync(descriptor);
    throw new InputError(
      `${path}: cannot read it: ${status.isDirectory() ? reasons.EISDIR : 'it is not a regular file'}`,
    );
  }
  let open = true;
  return {
    size: status.size,
    read(begin, end) {
      if (!open) throw new InputError(`${path}: the file has been closed`);
      const bytes = new Uint8Array(end - begin);
      let done = 0;
      while (done < bytes.length) {
        let count = 0;
        try {
          count = readSync(descriptor, bytes, done, Math.min(longestRead, bytes.length - done), begin + done);
        } catch (error) {
          throw cannotRead(path, error);
        }
        if (count === 0)
          throw new InputError(`${path}: shrank while it was read: needs ${end} bytes, has ${begin + done}`);
        done += count;
      }
      return bytes;
    },
    close() {
      if (open) closeSync(descriptor);
      open = false;
    },
  };
}

const windowBytes = 1 << 14;

/** Goes through bytes, or through a file by way of a window, so that many small reads cost few of the system's. */
export class Cursor {
  readonly size: number;
  private window: Uint8Array;
  private windowBegin = 0;

  /** @param truncated makes the error for `wanted` bytes where only `left` are left */
  constructor(
    private readonly source: Uint8Array | ByteSource,
    public at: number,
    private readonly truncated: (wanted: number, left: number) => Error,
  ) {
    this.size = source instanceof Uint8Array ? source.length : source.size;
    this.window = source instanceof Uint8Array ? source : new Uint8Array(0);
  }

  /** The next `n` bytes, which may be a view of the window. @throws what `truncated` makes, before it allocates */
  take(n: number): Uint8Array {
    const begin = this.at;
    this.skip(n);
    if (begin < this.windowBegin || this.at > this.windowBegin + this.window.length) {
      const source = this.source as ByteSource;
      if (n > windowBytes) return source.read(begin, this.at);
      this.window = source.read(begin, Math.min(this.size, begin + windowBytes));
      this.windowBegin = begin;
    }
    return this.window.subarray(begin - this.windowBegin, this.at - this.windowBegin);
  }

  /** The next `n` bytes to keep: a view of bytes in memory, but never one that holds a window. */
  keep(n: number): Uint8Array {
    const bytes = this.take(n);
    return this.source instanceof Uint8Array || n > windowBytes ? bytes : Uint8Array.from(bytes);
  }

  skip(n: number): void {
    const left = this.size - this.at;
    if (n > left) throw this.truncated(n, left);
    this.at += n;
  }
}

/**
 * A whole file.
 * @param most bytes; larger files are refused unread
 * @throws InputError
 */
export function readInput(path: string, most = 2 ** 31 - 1): Uint8Array {
  const file = openFile(path);
  try {
    if (file.size > most) {
      throw new InputError(
        `${path}: ${formatBytes(file.size)} is more than the ${formatBytes(most)} that are read here`,
      );
    }
    return file.read(0, file.size);
  } finally {
    file.close();
  }
}

/** A whole UTF-8 text as parsed JSON. @throws InputError */
export function readJson(path: string): unknown {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw cannotRead(path, error);
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    // Which may quote what would steer a terminal.
    const what = (error as Error).message.split('\n')[0]?.replaceAll(/\p{C}|\ufffd/gu, '?');
    throw new InputError(`${path}: not valid JSON: ${what}`);
  }
}
