/**
 * An evaluation's folder:
 *
 *   config.json        what was asked, with the checksums of the networks
 *   environment.json   one entry a start: versions, adapter, date, command
 *   records.jsonl      one line a sample, attack and run; only ever appended to, synced to disk a batch at a time
 *   images/*.safetensors   a batch's adversarial images (f32, exact) and what the defence made of them (f16)
 *   summary.json       the metrics, written last
 *
 * A batch's images are written before its lines, and lines are the truth: what a kill leaves without lines is done
 * again. A line cut in the middle of its writing is dropped.
 */
import { closeSync, existsSync, fsyncSync, openSync, readdirSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { Norm } from '../attacks/attack.ts';
import type { Knowledge } from '../defences/defence.ts';
import { brief, InputError } from '../engine/errors.ts';
import { cannotRead, readJson } from '../formats/read.ts';
import { openSafetensors, writeSafetensors } from '../formats/safetensors.node.ts';
import type { TensorToWrite } from '../formats/safetensors.ts';
import { cannotWrite, ensureDirectory, writeFileAtomic } from '../report/files.ts';
import { lockFolder } from '../report/lock.ts';
import { checkSeeds } from './seeds.ts';

export interface NetworkIdentity {
  readonly name: string;
  readonly sha256: string;
}

export interface AttackConfig {
  readonly kind: string;
  readonly surface: string;
  readonly knowledge: Knowledge;
  readonly settings: Readonly<Record<string, unknown>>;
  /** Of the surface, where it has any. */
  readonly surfaceSettings?: Readonly<Record<string, unknown>>;
}

export interface EvaluationConfig {
  readonly schema: 1;
  readonly dataset: string;
  /** Numbers of the images in the test set. */
  readonly images: readonly number[];
  readonly classifier: NetworkIdentity;
  readonly generator: NetworkIdentity | null;
  readonly defence: { readonly name: string; readonly settings: Readonly<Record<string, unknown>> };
  readonly norm: Norm;
  readonly eps: number;
  readonly seed: number;
  readonly runs: number;
  readonly evaluations: number;
  readonly attacks: Readonly<Record<string, AttackConfig>>;
  /** How to open it all again; takes no part in comparisons. */
  readonly source?: Readonly<Record<string, unknown>>;
}

/** A sample under an attack. */
export interface EvaluationRecord {
  readonly schema: 1;
  /** Number in the test set. */
  readonly image: number;
  readonly label: number;
  readonly attack: string;
  readonly surface: string;
  readonly knowledge: Knowledge;
  readonly run: number;
  /** Of the attack. */
  readonly seed: number;
  /** The bare classifier's label of the attacked image. */
  readonly bare: number;
  /** Of each judgement by the whole defence: its seed, label and votes by class. */
  readonly evaluationSeeds: readonly number[];
  readonly labels: readonly number[];
  readonly votes: readonly (readonly number[])[];
  /** As the attack judged itself on its surface. */
  readonly success: boolean;
  /** The attack's loss at its answer; null where it has none. */
  readonly loss: number | null;
  /** An entry an evaluation of the surface; restarts and target classes follow one another. */
  readonly trace: { readonly loss: readonly (number | null)[]; readonly hit: readonly number[] };
  /** Of an ensemble: its attacks that saw the image; their own images lie in the file, `ATTACK.adversarial`. */
  readonly stages?: readonly {
    readonly attack: string;
    readonly broke: boolean;
    readonly loss: number | null;
  }[];
  /** Of the perturbation, in [0, 1] pixel units. */
  readonly linf: number;
  readonly l2: number;
  readonly l1: number;
  /** Least and greatest pixel. */
  readonly min: number;
  readonly max: number;
  /** Where its images lie: a file below the folder and a row of its tensors; null where none are stored. */
  readonly file: string | null;
  readonly row: number;
  /** A batch's, divided by its images; differs with the batch and the machine, as nothing else here does. */
  readonly cost: {
    readonly forward: number;
    readonly backward: number;
    readonly defence: number;
    readonly seconds: number;
    readonly batch: number;
  };
  readonly adapter: string;
  /** What the attack had to say of its batch, at the first image of it. */
  readonly notes?: readonly string[];
  /** Where the defence optimises: of the first judgement, the label of each of the K images and the losses by iteration. */
  readonly purification?: PurificationRecord;
}

/** Fields of CMAP's trace (src/cmap/purify.ts), an entry an iteration; the last three, a look. */
export interface PurificationRecord {
  readonly labels: readonly number[];
  readonly mae: readonly (number | null)[];
  readonly ssim: readonly (number | null)[];
  readonly constraint: readonly (number | null)[];
  readonly latentMean: readonly (number | null)[];
  readonly latentStd: readonly (number | null)[];
  /** After how many iterations the K images were classified; their vote, and what share of them was right. */
  readonly looked: readonly number[];
  readonly voted: readonly number[];
  readonly right: readonly number[];
}

/** Where runEvaluation puts what it finds. */
export abstract class RecordStore {
  readonly records = new Map<string, EvaluationRecord>();
  readonly #files = new Set<string>();

  constructor(readonly config: EvaluationConfig) {}

  has(image: number, attack: string, run: number): boolean {
    return this.records.has(keyOf({ image, attack, run }));
  }

  /** Takes a batch: its images, which its records name by file and row, then the records. */
  append(
    file: string,
    tensors: Readonly<Record<string, TensorToWrite>>,
    records: readonly EvaluationRecord[],
  ): void {
    // Where the first image of a batch is made anew, the others stay in the file that has its name.
    let free = file;
    for (let n = 2; this.#files.has(free); n++) free = file.replace('.safetensors', `-${n}.safetensors`);
    const named = records.map((record) => (record.file === null ? record : { ...record, file: free }));
    this.keep(free, tensors, named);
    for (const record of named) this.add(record);
  }

  protected add(record: EvaluationRecord): void {
    this.records.set(keyOf(record), record);
    if (record.file !== null) this.#files.add(record.file);
  }

  protected abstract keep(
    file: string,
    tensors: Readonly<Record<string, TensorToWrite>>,
    records: readonly EvaluationRecord[],
  ): void;
}

/** Whether attacked images lie in its file; without an attack at most purified ones do. */
export const isAttacked = ({ attack, file }: Pick<EvaluationRecord, 'attack' | 'file'>) =>
  attack !== 'none' && file !== null;

/** What identifies a record. */
export const keyOf = (r: Pick<EvaluationRecord, 'image' | 'attack' | 'run'>) =>
  `${r.attack} ${r.run} ${r.image}`;

/** An evaluation that nobody goes on with: kept in memory, with the images of every batch by the name of their file. */
export class MemoryStore extends RecordStore {
  readonly #tensors = new Map<string, Readonly<Record<string, TensorToWrite>>>();

  protected keep(file: string, tensors: Readonly<Record<string, TensorToWrite>>): void {
    this.#tensors.set(file, tensors);
  }

  /** A record's row of a tensor of its batch. @throws RangeError where it has none */
  image({ file, row }: EvaluationRecord, tensor: 'adversarial' | 'purified'): Float32Array {
    const found = this.#tensors.get(file ?? '')?.[tensor];
    if (!(found?.data instanceof Float32Array)) throw new RangeError(`no ${tensor} image in ${file}`);
    const size = found.data.length / (found.shape[0] as number);
    return found.data.subarray(row * size, (row + 1) * size);
  }
}

/** An evaluation on disk. */
export class Store extends RecordStore {
  #lines: number | null = null;
  #unlock: (() => void) | null = null;

  /** Records that were dropped, because images/ no longer holds what they name. */
  lost = 0;

  private constructor(
    readonly folder: string,
    config: EvaluationConfig,
  ) {
    super(config);
  }

  /**
   * Begins an evaluation, or goes on with one. Going on may add attacks, and needs everything else to be as it was.
   * @throws InputError when the folder holds an evaluation and `resume` is false, or a different one
   */
  static open(folder: string, config: EvaluationConfig, resume: boolean): Store {
    const path = join(folder, 'config.json');
    let attacks = config.attacks;
    if (existsSync(path)) {
      if (!resume)
        throw new InputError(
          `${folder}: holds an evaluation; go on with it by --resume, or choose another --out`,
        );
      const known = readConfig(folder);
      const difference = firstDifference(known, config);
      if (difference)
        throw new InputError(
          `${path}: ${difference.path} was ${difference.before}, now it is ${difference.now}; --resume with the same settings, or choose another --out`,
        );
      attacks = { ...known.attacks, ...config.attacks };
    }
    const lines = join(folder, 'records.jsonl');
    ensureDirectory(folder);
    const store = new Store(folder, { ...config, attacks });
    store.#unlock = lockFolder(folder);
    try {
      store.#begin(path, lines);
    } catch (error) {
      store.close();
      throw error;
    }
    return store;
  }

  #begin(path: string, lines: string): void {
    const images = join(this.folder, 'images');
    ensureDirectory(images);
    let kept: boolean;
    try {
      kept = readdirSync(images).length > 0;
    } catch (error) {
      throw cannotRead(images, error);
    }
    const { records, whole, bytes } = readRecords(lines);
    checkSeeds(this.folder, this.config, records);
    // Who deletes the whole folder of images does without them.
    const there = kept
      ? records.filter(isStored(this.folder))
      : records.map((record) => ({ ...record, file: null }));
    this.lost = records.length - there.length;
    writeFileAtomic(path, `${JSON.stringify(this.config, null, 1)}\n`);
    if (whole < bytes || this.lost > 0 || !kept)
      writeFileAtomic(lines, there.map((record) => `${JSON.stringify(record)}\n`).join(''));
    for (const record of there) this.add(record);
    try {
      this.#lines = openSync(lines, 'a');
    } catch (error) {
      throw cannotWrite(lines, error);
    }
  }

  /** Adds this start to environment.json. */
  started(environment: Readonly<Record<string, unknown>>): void {
    const path = join(this.folder, 'environment.json');
    writeFileAtomic(path, `${JSON.stringify([...this.#starts(), environment], null, 1)}\n`);
  }

  /** Name of the adapter of the start before; null where none is told. */
  lastAdapter(): string | null {
    const { adapter } = (this.#starts().at(-1) ?? {}) as { adapter?: { name?: unknown } };
    return typeof adapter?.name === 'string' ? adapter.name : null;
  }

  #starts(): unknown[] {
    const path = join(this.folder, 'environment.json');
    const before = existsSync(path) ? readJson(path) : [];
    return Array.isArray(before) ? before : [];
  }

  /** Writes a batch's images, then its lines. */
  protected keep(
    file: string,
    tensors: Readonly<Record<string, TensorToWrite>>,
    records: readonly EvaluationRecord[],
  ): void {
    if (Object.keys(tensors).length > 0) writeSafetensors(join(this.folder, file), tensors);
    const text = records.map((record) => `${JSON.stringify(record)}\n`).join('');
    try {
      const bytes = Buffer.from(text);
      for (let at = 0; at < bytes.length; )
        at += writeSync(this.#lines as number, bytes, at, bytes.length - at);
      fsyncSync(this.#lines as number);
    } catch (error) {
      throw cannotWrite(join(this.folder, 'records.jsonl'), error);
    }
  }

  /** Writes a file of the folder whole or not at all. */
  write(name: string, content: unknown): string {
    const path = join(this.folder, name);
    writeFileAtomic(path, `${JSON.stringify(content, null, 1)}\n`);
    return path;
  }

  close(): void {
    if (this.#lines !== null) closeSync(this.#lines);
    this.#lines = null;
    this.#unlock?.();
    this.#unlock = null;
  }
}

/** @throws InputError when the folder holds no evaluation */
export function readConfig(folder: string): EvaluationConfig {
  const path = join(folder, 'config.json');
  if (!existsSync(path))
    throw new InputError(
      `${folder}: holds no evaluation: there is no config.json; cmap eval --out makes one`,
    );
  const config = readJson(path) as EvaluationConfig | null;
  const usable =
    typeof config === 'object' &&
    config !== null &&
    Array.isArray(config.images) &&
    typeof config.attacks === 'object' &&
    config.attacks !== null &&
    typeof config.defence === 'object' &&
    config.defence !== null;
  if (!usable || config.schema !== 1)
    throw new InputError(
      `${path}: not the configuration of an evaluation, or of another version (schema ${JSON.stringify(config?.schema)}, wanted 1)`,
    );
  return config;
}

/** A finished or unfinished evaluation as it lies on disk. @throws InputError */
export function readEvaluation(folder: string): {
  config: EvaluationConfig;
  records: EvaluationRecord[];
} {
  const config = readConfig(folder);
  return { config, records: readRecords(join(folder, 'records.jsonl')).records };
}

/** Tells whether the images of a record are where it says. */
function isStored(folder: string): (record: EvaluationRecord) => boolean {
  const known = new Map<string, ArrayLike<number>>();
  const idsOf = (file: string) => {
    try {
      const source = openSafetensors(join(folder, file));
      try {
        return source.read('images');
      } finally {
        source.close();
      }
    } catch (error) {
      // One that is there and cannot be read now may be read later.
      const { code = 'ENOENT' } = ((error as Error).cause ?? {}) as NodeJS.ErrnoException;
      if (error instanceof InputError && code === 'ENOENT') return [];
      throw error;
    }
  };
  return ({ file, row, image }) => {
    if (file === null) return true;
    const ids = known.get(file) ?? idsOf(file);
    known.set(file, ids);
    return ids[row] === image;
  };
}

/** Adversarial images of records, [N, H, W, C] in [0, 1] each. @throws InputError */
export function readAdversarial(folder: string, records: readonly EvaluationRecord[]): Float32Array[] {
  const files = new Map<string, { data: Float32Array; ids: ArrayLike<number>; size: number }>();
  return records.map(({ file, row, image, attack }) => {
    if (!file) throw new InputError(`${folder}: image ${image} under ${attack} was not stored`);
    let found = files.get(file);
    if (!found) {
      const source = openSafetensors(join(folder, file));
      try {
        const shape = source.shape('adversarial');
        const data = source.read('adversarial') as Float32Array;
        const ids = source.read('images');
        found = { data, ids, size: data.length / (shape[0] as number) };
      } finally {
        source.close();
      }
      files.set(file, found);
    }
    if (found.ids[row] !== image)
      throw new InputError(
        `${join(folder, file)}: row ${row} is not image ${image} under ${attack}, the file was changed; cmap eval --resume --out ${folder} makes it anew`,
      );
    return found.data.subarray(row * found.size, (row + 1) * found.size);
  });
}

/** The lines of a file; the last one does not count until it is ended. */
function readRecords(path: string): { records: EvaluationRecord[]; whole: number; bytes: number } {
  if (!existsSync(path)) return { records: [], whole: 0, bytes: 0 };
  let content: Buffer;
  try {
    content = readFileSync(path);
  } catch (error) {
    throw cannotRead(path, error);
  }
  const whole = content.lastIndexOf(10) + 1;
  const lines = content.subarray(0, whole).toString('utf8').split('\n').slice(0, -1);
  const records = lines.map((line, i) => {
    try {
      const record = JSON.parse(line) as EvaluationRecord;
      if (record.schema === 1 && Array.isArray(record.labels)) return record;
    } catch {}
    throw new InputError(
      `${path}: line ${i + 1} of ${lines.length} is not a record, the file was changed; take the line out, and cmap eval --resume makes it anew`,
    );
  });
  return { records, whole, bytes: content.length };
}

/** Where two configurations differ that should not; attacks that only one of them has may. */
function firstDifference(before: EvaluationConfig, now: EvaluationConfig) {
  const shared = Object.keys(before.attacks).filter((name) => name in now.attacks);
  const comparable = (c: EvaluationConfig) => ({
    ...c,
    source: undefined,
    attacks: Object.fromEntries(shared.map((name) => [name, c.attacks[name]])),
  });
  return difference(plain(comparable(before)), plain(comparable(now)), '');
}

const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value));
function difference(
  a: unknown,
  b: unknown,
  path: string,
): { path: string; before: string; now: string } | null {
  if (typeof a === 'object' && typeof b === 'object' && a && b && !Array.isArray(a) && !Array.isArray(b)) {
    const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
    for (const key of keys) {
      const [x, y] = [(a as Record<string, unknown>)[key], (b as Record<string, unknown>)[key]];
      const found = difference(x, y, path ? `${path}.${key}` : key);
      if (found) return found;
    }
    return null;
  }
  return JSON.stringify(a) === JSON.stringify(b) ? null : { path, before: brief(a), now: brief(b) };
}
