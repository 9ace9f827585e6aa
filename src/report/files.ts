/** Writing files that a user asked for: whole or not at all, and a refusal is an InputError of one line. */
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { InputError } from '../engine/errors.ts';

const reasons: Record<string, string> = {
  EACCES: 'you may not write there',
  EPERM: 'you may not write there',
  EROFS: 'the file system is read-only',
  ENOSPC: 'the disk is full',
  EDQUOT: 'your quota is used up',
  EISDIR: 'it is a folder',
  ENOTDIR: 'a part of its path is not a folder',
  EEXIST: 'a file of that name is in the way',
  ENOENT: 'no folder can be made there',
  ENAMETOOLONG: 'its name is too long',
};

/** An operating system's refusal in words. */
export function cannotWrite(path: string, error: unknown): InputError {
  const { code = '', message } = error as NodeJS.ErrnoException;
  return new InputError(
    `${path}: cannot write it: ${reasons[code] ?? (code || message)}; choose another place`,
  );
}

/** Makes the folder and those above it. @throws InputError */
export function ensureDirectory(path: string): void {
  try {
    makeFolders(path);
  } catch (error) {
    throw cannotWrite(path, error);
  }
}

/** One after another: where the system has none to give (/proc), Node's recursive mkdir tries for ever. */
function makeFolders(path: string): void {
  const above = dirname(path);
  if (above !== path && !existsSync(above)) makeFolders(above);
  try {
    mkdirSync(path);
  } catch (error) {
    if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) throw error;
  }
}

/** Makes a part of a file when it is its turn; an InputError of its own passes through. */
export type Piece = () => Uint8Array;

/**
 * Before long work: that its result can be written, as far as that can be known; makes nothing.
 * @throws InputError
 */
export function checkWritable(...paths: readonly (string | undefined)[]): void {
  for (const path of paths) {
    if (path === undefined) continue;
    try {
      const status = statSync(path, { throwIfNoEntry: false });
      if (status?.isDirectory()) throw Object.assign(new Error(), { code: 'EISDIR' });
      let above = status && !status.isFile() ? path : dirname(path);
      for (let next = dirname(above); !existsSync(above); above = next, next = dirname(above))
        if (next === above) throw Object.assign(new Error(), { code: 'ENOENT' }); // a drive that is not there
      if (!status && !statSync(above).isDirectory()) throw Object.assign(new Error(), { code: 'ENOTDIR' });
      accessSync(above, constants.W_OK);
    } catch (error) {
      throw cannotWrite(path, error);
    }
  }
}

let counter = 0;

/** Bytes; Node writes no more than 2^31 − 1 at once. */
const atOnce = 2 ** 30;

/**
 * Writes text, bytes, or pieces of bytes made one after another, to a temporary file beside the target, then renames it: a reader sees the old file or the
 * new one, never a part. Folders are made. A link is followed; a device or pipe is written to directly.
 * @throws InputError
 */
export function writeFileAtomic(path: string, content: string | Uint8Array | readonly Piece[]): void {
  let temporary: string | undefined;
  try {
    const status = statSync(path, { throwIfNoEntry: false });
    if (!status) makeFolders(dirname(path));
    // Renaming over /dev/null or a pipe would replace it; a folder refuses.
    if (status && !status.isFile()) {
      writeAll(openSync(path, 'w'), content);
      return;
    }
    const target = status ? realpathSync(path) : path;
    temporary = join(dirname(target), `.${basename(target)}.${process.pid}.${counter++}.tmp`);
    writeAll(openSync(temporary, 'wx', status?.mode), content, true);
    renameSync(temporary, target);
  } catch (error) {
    if (temporary) rmSync(temporary, { force: true });
    // What failed is the making of a piece.
    if (error instanceof InputError) throw error;
    throw cannotWrite(path, error);
  }
}

/** Writes and closes. */
function writeAll(descriptor: number, content: string | Uint8Array | readonly Piece[], sync = false): void {
  try {
    if (typeof content === 'string') writeFileSync(descriptor, content);
    else if (content instanceof Uint8Array) writePiece(descriptor, () => content);
    else for (const piece of content) writePiece(descriptor, piece);
    if (sync) fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

/** A function of its own, so that no variable holds a piece while the next is made. */
function writePiece(descriptor: number, piece: Piece): void {
  const bytes = piece();
  for (let at = 0; at < bytes.length; at += atOnce)
    writeFileSync(descriptor, bytes.subarray(at, at + atOnce));
}
