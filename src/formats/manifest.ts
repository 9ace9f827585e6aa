/** weights/manifest.json: which weights the package holds, and how to know that they are whole. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { InputError } from '../engine/errors.ts';
import { packageRoot } from './package-root.ts';
import { readInput, readJson } from './read.ts';

export interface ManifestEntry {
  /** Path below the manifest's folder, with forward slashes. */
  readonly file: string;
  readonly bytes: number;
  /** Hexadecimal. */
  readonly sha256: string;
  /** What the file is for, such as "classifier" or "consistency". */
  readonly kind: string;
  /** Settings of the network. */
  readonly config: Readonly<Record<string, unknown>>;
  /** Whatever else the manifest says: accuracy, training, source. */
  readonly [more: string]: unknown;
}

export interface ResolvedWeights {
  readonly path: string;
  readonly entry: ManifestEntry;
}

/** Where the package's own weights lie. */
export function weightsFolder(): string {
  return join(packageRoot(), 'weights');
}

/** All entries by name; the manifest's `presets`, hyper-parameters by data set, are no entry. @throws InputError */
export function readManifest(folder = weightsFolder()): Record<string, ManifestEntry> {
  const path = join(folder, 'manifest.json');
  const manifest = readJson(path);
  if (typeof manifest !== 'object' || manifest === null || Array.isArray(manifest)) {
    throw new InputError(`${path}: not an object of weights by name`);
  }
  const { presets: _, ...entries } = manifest as Record<string, ManifestEntry>;
  for (const [name, entry] of Object.entries(entries)) checkEntry(`${path}: ${JSON.stringify(name)}`, entry);
  return entries;
}

function checkEntry(what: string, entry: unknown): void {
  const { file, bytes, sha256, kind, config } = Object(entry) as Record<string, unknown>;
  const inside =
    typeof file === 'string' && !/^[/\\]|^[a-zA-Z]:|(^|[/\\])\.\.([/\\]|$)/.test(file) && file !== '';
  if (!inside)
    throw new InputError(`${what}: file is ${JSON.stringify(file)}; a path inside the folder is wanted`);
  if (!Number.isSafeInteger(bytes) || (bytes as number) < 0) {
    throw new InputError(`${what}: bytes is ${JSON.stringify(bytes)}; an integer is wanted`);
  }
  if (typeof sha256 !== 'string' || !/^[0-9a-f]{64}$/.test(sha256)) {
    throw new InputError(`${what}: sha256 is ${JSON.stringify(sha256)}; 64 hexadecimal digits are wanted`);
  }
  if (typeof kind !== 'string')
    throw new InputError(`${what}: kind is ${JSON.stringify(kind)}; a string is wanted`);
  if (typeof config !== 'object' || config === null) throw new InputError(`${what}: it has no config`);
}

/**
 * A file of weights that is known to be whole: its size and SHA-256 are those of the manifest.
 * @throws InputError when the name is unknown, or the file is missing, truncated or changed
 */
export function resolveWeights(name: string, folder = weightsFolder()): ResolvedWeights {
  const manifest = readManifest(folder);
  const entry = Object.hasOwn(manifest, name) ? manifest[name] : undefined;
  if (!entry) {
    throw new InputError(
      `${join(folder, 'manifest.json')}: no weights ${JSON.stringify(name)}; there are: ${Object.keys(manifest).join(', ')}`,
    );
  }
  const path = join(folder, entry.file);
  const wayOut = `restore it with "git checkout -- weights" or reinstall the package`;
  let content: Uint8Array;
  try {
    content = readInput(path);
  } catch (error) {
    throw new InputError(`${(error as Error).message}; ${wayOut}`);
  }
  if (content.length !== entry.bytes) {
    const what = content.length < entry.bytes ? 'truncated' : 'too long';
    throw new InputError(
      `${path}: ${what}: has ${content.length} bytes, the manifest says ${entry.bytes}; ${wayOut}`,
    );
  }
  const found = createHash('sha256').update(content).digest('hex');
  if (found !== entry.sha256) {
    throw new InputError(
      `${path}: changed or damaged: SHA-256 is ${found.slice(0, 12)}..., the manifest says ${entry.sha256.slice(0, 12)}...; ${wayOut}`,
    );
  }
  return { path, entry };
}
