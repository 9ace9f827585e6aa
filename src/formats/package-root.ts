import { existsSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { InputError } from '../engine/errors.ts';

/**
 * The folder of this package, where data/ and weights/ lie: the first above this file whose package.json has our
 * name. The bundler moves the file (dist/, dist/chunks/, dist/test/), so its depth is not known.
 * @throws InputError when the files have been taken out of the package
 */
export function packageRoot(): string {
  const start = dirname(fileURLToPath(import.meta.url));
  for (let folder = start; ; folder = dirname(folder)) {
    const file = join(folder, 'package.json');
    if (existsSync(file) && JSON.parse(readFileSync(file, 'utf8')).name === 'cmap-webgpu') return folder;
    if (folder === dirname(folder)) {
      throw new InputError(`${start}: no package.json of cmap-webgpu above it; reinstall the package`);
    }
  }
}

/** Of package.json. */
export const packageVersion = (): string =>
  JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')).version;

/** Where what can be got or made again is kept for this user: $XDG_CACHE_HOME/cmap, else ~/.cache/cmap. */
export function userCache(): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'cmap');
}
