/** Reading files that a user names: every failure is an InputError of one line with the path. */
import { closeSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
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
  return new InputError(`${path}: cannot read it: ${reasons[code] ?? (code || message)}`);
}

export interface OpenedFile {
  readonly size: number;
  /** Bytes begin..end (exclusive) in memory of their own. */
  read(begin: number, end: number): Uint8Array;
  close(): void;
}

/** Opens a regular file for reading at positions. @throws InputError */
export function openFile(path: string): OpenedFile {
  let descriptor: number;
  try {
    descriptor = openSync(path, 'r');
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
          count = readSync(descriptor, bytes, done, bytes.length - done, begin + done);
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
    throw new InputError(`${path}: not valid JSON: ${(error as Error).message.split('\n')[0]}`);
  }
}
