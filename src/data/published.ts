/** The files as their authors publish them, and where this machine keeps them. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { InputError } from '../engine/errors.ts';
import { userCache } from '../formats/package-root.ts';

export interface PublishedFile {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly md5: string;
}

export interface DownloadableFile extends PublishedFile {
  readonly url: string;
}

/**
 * The folder of a data set: $CMAP_DATA/NAME, else $XDG_CACHE_HOME/cmap/NAME, else ~/.cache/cmap/NAME. `cmap data`
 * puts files there, and loading without a folder looks there.
 */
export function dataFolder(name: string): string {
  return join(process.env.CMAP_DATA || userCache(), name);
}

/**
 * @param command what gets the file anew, in the error
 * @throws InputError unless the bytes are the published ones
 */
export function checkPublished(bytes: Uint8Array, where: string, file: PublishedFile, command: string): void {
  if (bytes.length !== file.size)
    throw new InputError(`${where}: has ${bytes.length} bytes, as published it has ${file.size}; ${command}`);
  const md5 = createHash('md5').update(bytes).digest('hex');
  if (md5 !== file.md5)
    throw new InputError(
      `${where}: changed or damaged: its md5 is ${md5}, as published it is ${file.md5}; ${command}`,
    );
}
