/** Members of a .tar.gz, in memory: nothing is unpacked to paths that an archive names. */
import { list, type ReadEntry } from 'tar';
import { InputError } from '../engine/errors.ts';
import { openFile } from '../formats/read.ts';

/**
 * Reads the wanted members, and no more bytes of any than is asked for.
 * @param wanted the most bytes of each, by its path in the archive
 * @returns those that are there
 * @throws InputError when the archive cannot be read, is damaged, or a member is larger
 */
export function readMembers(path: string, wanted: ReadonlyMap<string, number>): Map<string, Uint8Array> {
  openFile(path).close();
  const found = new Map<string, Uint8Array>();
  const take = (entry: ReadEntry) => {
    const name = entry.path.replace(/^\.\//, '');
    const most = wanted.get(name);
    if (most === undefined || entry.type !== 'File') return;
    if (entry.size > most)
      throw new InputError(`${path}: ${name} has ${entry.size} bytes, at most ${most} are expected`);
    const bytes = new Uint8Array(entry.size);
    let at = 0;
    entry.on('data', (chunk: Buffer) => {
      bytes.set(chunk, at);
      at += chunk.length;
    });
    entry.on('end', () => {
      if (at === bytes.length) found.set(name, bytes);
    });
  };
  try {
    list({ file: path, sync: true, onReadEntry: take });
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw new InputError(
      `${path}: damaged archive: ${(error as Error).message.split('\n')[0]}; get it again`,
    );
  }
  return found;
}
