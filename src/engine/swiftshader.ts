/**
 * The software driver we bring along: SwiftShader and a Vulkan loader out of the npm package @sparticuz/chromium,
 * unpacked once into the user's cache. It needs no root and nothing installed. Linux on x64 only.
 */
import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { homedir, tmpdir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { brotliDecompressSync } from 'node:zlib';
import { AdapterError } from './errors.ts';

export interface SwiftShader {
  /** Absolute path of libvulkan.so.1. */
  readonly loader: string;
  /** Absolute path of the driver's manifest, the value for VK_DRIVER_FILES. */
  readonly manifest: string;
}

const loaderName = 'libvulkan.so.1';
const manifestName = 'vk_swiftshader_icd.json';
const wanted = [loaderName, 'libvk_swiftshader.so', manifestName];

/**
 * Unpacks if needed (about 0.1 s the first time) and gives the paths.
 * @throws AdapterError on another platform, without the package, or with no writable cache folder.
 */
export function swiftShader(): SwiftShader {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    throw new AdapterError(
      `the bundled SwiftShader is for linux x64, this is ${process.platform} ${process.arch}`,
    );
  const { archive, version } = locate();
  const folder = join(cacheFolder(), `swiftshader-${version}`);
  if (!wanted.every((name) => existsSync(join(folder, name)))) unpack(archive, folder);
  return { loader: join(folder, loaderName), manifest: join(folder, manifestName) };
}

/**
 * `cmap` in the user's cache (XDG_CACHE_HOME or ~/.cache), else in the system's temporary folder. Libraries are
 * loaded from here, so a folder that belongs to someone else or that others can write to is passed over.
 */
export function cacheFolder(): string {
  const xdg = process.env.XDG_CACHE_HOME;
  const user = process.getuid?.();
  const places = [
    join(xdg && isAbsolute(xdg) ? xdg : join(homedir(), '.cache'), 'cmap'),
    join(tmpdir(), `cmap-${user ?? 'cache'}`),
  ];
  const refused: string[] = [];
  for (const place of places) {
    try {
      mkdirSync(place, { recursive: true, mode: 0o700 });
      const stat = statSync(place);
      if (user !== undefined && stat.uid !== user) throw new Error('belongs to another user');
      if (user !== undefined && stat.mode & 0o022) chmodSync(place, 0o700);
      accessSync(place, constants.W_OK);
      return place;
    } catch (error) {
      refused.push(`${place} (${(error as NodeJS.ErrnoException).code ?? (error as Error).message})`);
    }
  }
  throw new AdapterError(`no writable cache folder: ${refused.join(', ')}; set XDG_CACHE_HOME`);
}

function locate(): { archive: string; version: string } {
  let entry: string;
  try {
    entry = createRequire(import.meta.url).resolve('@sparticuz/chromium'); // …/build/cjs/index.cjs
  } catch {
    throw new AdapterError(
      'the package @sparticuz/chromium, which holds SwiftShader, is not installed; run npm install',
    );
  }
  const root = join(entry, '..', '..', '..');
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  return { archive: join(root, 'bin', 'swiftshader.tar.br'), version };
}

/** Other processes may do the same at once: each unpacks aside, and one rename wins. */
function unpack(archive: string, folder: string): void {
  const aside = mkdtempSync(`${folder}.`);
  try {
    const files = untar(brotliDecompressSync(readFileSync(archive)));
    for (const name of wanted) {
      const bytes = files.get(name);
      if (!bytes) throw new AdapterError(`${archive} holds no ${name}; reinstall @sparticuz/chromium`);
      writeFileSync(join(aside, name), bytes, { mode: 0o755 });
    }
    try {
      renameSync(aside, folder);
    } catch {
      // Somebody else's copy is there, or the rest of one that a temp cleaner went through: mend it file by file.
      for (const name of wanted) renameSync(join(aside, name), join(folder, name));
    }
  } finally {
    rmSync(aside, { recursive: true, force: true });
  }
}

/** The plain files of a tar archive: 512-byte headers, each followed by the contents padded to 512. */
function untar(tar: Buffer): Map<string, Buffer> {
  const files = new Map<string, Buffer>();
  const text = (from: number, to: number) => tar.toString('latin1', from, to).replace(/\0.*$/s, '').trim();
  for (let at = 0; at + 512 <= tar.length && tar[at] !== 0; ) {
    const size = parseInt(text(at + 124, at + 136), 8) || 0;
    const type = text(at + 156, at + 157);
    if (type === '' || type === '0')
      files.set(text(at, at + 100).replace(/^\.\//, ''), tar.subarray(at + 512, at + 512 + size));
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return files;
}
