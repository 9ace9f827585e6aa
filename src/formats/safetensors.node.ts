/** safetensors files on disk. */
import { writeFileAtomic } from '../report/files.ts';
import { openFile } from './read.ts';
import {
  checkSafetensors,
  piecesOfSafetensors,
  type Safetensors,
  streamSafetensors,
  type TensorToStream,
  type TensorToWrite,
} from './safetensors.ts';

/**
 * Checks a file's header and offers its tensors; each is read from disk when it is asked for. Call `close()` at
 * the end.
 * @throws InputError saying in one line what is wrong, with the numbers
 */
export function openSafetensors(path: string): Safetensors {
  const file = openFile(path);
  try {
    return checkSafetensors(file.size, file.read, path, file.close);
  } catch (error) {
    file.close();
    throw error;
  }
}

/** Writes a file whole or not at all; equal tensors give equal bytes. @throws InputError */
export function writeSafetensors(
  path: string,
  tensors: Readonly<Record<string, TensorToWrite>>,
  metadata: Readonly<Record<string, string>> = {},
): void {
  writeFileAtomic(path, piecesOfSafetensors(tensors, metadata));
}

/** The same with one tensor in memory at a time. @throws InputError */
export function writeSafetensorsStream(
  path: string,
  tensors: readonly TensorToStream[],
  metadata: Readonly<Record<string, string>> = {},
): void {
  writeFileAtomic(path, streamSafetensors(tensors, metadata));
}
