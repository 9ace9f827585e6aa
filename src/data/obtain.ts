/** Putting a whole data set where loading finds it: from the network, or from a folder that has it in any form. */
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { InputError } from '../engine/errors.ts';
import { writeFileAtomic } from '../report/files.ts';
import { cifar10Files, readCifar10Archive, readCifar10Batches } from './cifar10.ts';
import { type DownloadOptions, download } from './download.ts';
import { fashionMnistFiles, readFashionMnistFiles } from './fashion-mnist.ts';
import type { DownloadableFile } from './published.ts';

export interface ObtainOptions {
  /** A folder that has the files, in any form that loading knows; without it they are downloaded. */
  readonly from?: string;
  readonly wayOut?: string;
  /** Called as a download begins; gives what is told of its bytes, and its end. */
  readonly onDownload?: (file: DownloadableFile) => {
    progress: DownloadOptions['onProgress'];
    end: () => void;
  };
}

export interface Obtained {
  /** `there`: nothing had to be done. */
  readonly how: 'there' | 'copied' | 'downloaded';
  readonly files: readonly string[];
  /** Bytes of all files. */
  readonly size: number;
}

/**
 * Checked against the published sums whatever the source; every file is written whole or not at all.
 * @param folder the target; made when it is not there
 * @throws InputError
 */
export async function obtainCifar10(
  folder: string,
  options: ObtainOptions = {},
  files = cifar10Files,
): Promise<Obtained> {
  const batches = [...files.batches.train, ...files.batches.test];
  const paths = batches.map(({ name }) => join(folder, `${name}.bin`));
  const result = {
    files: paths,
    size: batches.reduce((sum, { size }) => sum + size, 0),
  };
  const put = (found: ReadonlyMap<string, Uint8Array>, unlessThere = false) => {
    batches.forEach(({ name }, i) => {
      const path = paths[i] as string;
      if (!unlessThere || !existsSync(path)) writeFileAtomic(path, found.get(name) as Uint8Array);
    });
  };
  if (options.from !== undefined) {
    put(readCifar10Batches(options.from, batches, files));
    return { ...result, how: 'copied' };
  }
  const there = unlessInputError(() => readCifar10Batches(folder, batches, files));
  if (there) {
    const complete = paths.every((path) => existsSync(path));
    if (!complete) put(there, true);
    return { ...result, how: complete ? 'there' : 'copied' };
  }
  const archive = await fetchFile(files.archive, folder, options);
  put(readCifar10Archive(archive, batches));
  rmSync(archive, { force: true });
  return { ...result, how: 'downloaded' };
}

/** As `obtainCifar10`. @throws InputError */
export async function obtainFashionMnist(
  folder: string,
  options: ObtainOptions = {},
  files = fashionMnistFiles,
): Promise<Obtained> {
  const all = [...files.train, ...files.test];
  const result = {
    files: all.map(({ name }) => join(folder, name)),
    size: all.reduce((sum, { size }) => sum + size, 0),
  };
  if (options.from !== undefined) {
    const found = readFashionMnistFiles(options.from, all);
    for (const [i, { bytes }] of found.entries()) writeFileAtomic(result.files[i] as string, bytes);
    return { ...result, size: found.reduce((sum, { bytes }) => sum + bytes.length, 0), how: 'copied' };
  }
  let how: Obtained['how'] = 'there';
  for (const file of all) {
    if (unlessInputError(() => readFashionMnistFiles(folder, [file]))) continue;
    await fetchFile(file, folder, options);
    how = 'downloaded';
  }
  return { ...result, how };
}

/** Null where files are missing or not as published. */
function unlessInputError<T>(read: () => T): T | null {
  try {
    return read();
  } catch (error) {
    if (error instanceof InputError) return null;
    throw error;
  }
}

async function fetchFile(
  file: DownloadableFile,
  folder: string,
  { onDownload, wayOut }: ObtainOptions,
): Promise<string> {
  const shown = onDownload?.(file);
  try {
    return await download(file, folder, { onProgress: shown?.progress, wayOut });
  } finally {
    shown?.end();
  }
}
