/** What is done with a checkpoint as a whole: choosing tensors, statistics, comparison, conversion. One tensor at a time. */
import { brief, InputError } from '../engine/errors.ts';
import { elementCount, type HostData, toFloat32 } from './array.ts';
import type { Checkpoint } from './checkpoint.ts';
import { type ElementType, encodeElements } from './elements.ts';
import { writeSafetensorsStream } from './safetensors.node.ts';

export interface Selection {
  /** Only tensors below this name are taken, and it is taken off: "state_dict.module", "params_ema". */
  readonly prefix?: string;
  /** Tensors whose name, without the prefix, matches are left out. */
  readonly drop?: RegExp;
}

/** Stored names by the names they are given. @throws InputError when nothing is left */
export function selectTensors(source: Checkpoint, { prefix = '', drop }: Selection): Map<string, string> {
  const begin = prefix === '' || prefix.endsWith('.') ? prefix : `${prefix}.`;
  const chosen = new Map<string, string>();
  for (const name of source.names) {
    const short = name.slice(begin.length);
    if (name.startsWith(begin) && short !== '' && !drop?.test(short)) chosen.set(short, name);
  }
  if (chosen.size === 0) {
    const some = source.names
      .slice(0, 3)
      .map((name) => brief(name))
      .join(', ');
    const rule = [begin && ` below ${brief(begin)}`, drop && ` that --drop ${drop.source} leaves`]
      .filter(Boolean)
      .join('');
    throw new InputError(
      `${source.label}: there is no tensor${rule}; it has ${source.names.length}${some && `, such as ${some}`}`,
    );
  }
  return chosen;
}

/** Groups of tensors by the first part of their names in which they differ. */
export function groupTensors(source: Checkpoint): { prefix: string; tensors: number; elements: number }[] {
  const parts = source.names.map((name) => name.split('.'));
  const [first = []] = parts;
  let depth = 0;
  while (depth < first.length && parts.every((p) => p.length > depth + 1 && p[depth] === first[depth]))
    depth++;
  const groups = new Map<string, { prefix: string; tensors: number; elements: number }>();
  source.names.forEach((name, i) => {
    const prefix = (parts[i] as string[]).slice(0, depth + 1).join('.');
    const group = groups.get(prefix) ?? { prefix, tensors: 0, elements: 0 };
    groups.set(prefix, group);
    group.tensors++;
    group.elements += elementCount(source.shape(name));
  });
  return [...groups.values()];
}

export interface TensorStatistics {
  /** Smallest and largest of the finite numbers; null where there are none. */
  readonly min: number | null;
  readonly max: number | null;
  readonly mean: number | null;
  /** Of the population (divided by n). */
  readonly std: number | null;
  readonly notFinite: number;
  /** Flat position of the first that is not finite, else -1. */
  readonly firstNotFinite: number;
}

export function tensorStatistics(data: HostData): TensorStatistics {
  let [min, max, sum, notFinite, firstNotFinite] = [
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
    0,
    0,
    -1,
  ];
  for (let i = 0; i < data.length; i++) {
    const value = data[i] as number;
    if (!Number.isFinite(value)) {
      if (notFinite++ === 0) firstNotFinite = i;
      continue;
    }
    if (value < min) min = value;
    if (value > max) max = value;
    sum += value;
  }
  const count = data.length - notFinite;
  if (count === 0) return { min: null, max: null, mean: null, std: null, notFinite, firstNotFinite };
  const mean = sum / count;
  let squares = 0;
  for (let i = 0; i < data.length; i++) {
    const value = data[i] as number;
    if (Number.isFinite(value)) squares += (value - mean) ** 2;
  }
  return { min, max, mean, std: Math.sqrt(squares / count), notFinite, firstNotFinite };
}

/**
 * Reads every tensor and finds every number finite.
 * @param onTensor called after each
 * @returns how many tensors and numbers were read
 * @throws InputError naming the first tensor that is damaged or holds a NaN or an infinity
 */
export function verifyTensors(
  source: Checkpoint,
  onTensor: () => void = () => {},
): { tensors: number; elements: number } {
  let elements = 0;
  for (const name of source.names) {
    elements += checkFinite(source, name);
    onTensor();
  }
  return { tensors: source.names.length, elements };
}

/** A function of its own, so that no variable holds a tensor while the next is read. */
function checkFinite(source: Checkpoint, name: string): number {
  const { shape, data } = source.array(name);
  for (let i = 0; i < data.length; i++) {
    if (Number.isFinite(data[i])) continue;
    const bad = tensorStatistics(data).notFinite;
    throw new InputError(
      `${source.label}: tensor ${brief(name)} [${shape.join(', ')}] holds ${data[i]} at position ${i}; ${bad} of its ${data.length} numbers are not finite`,
    );
  }
  return data.length;
}

export interface TensorDifference {
  readonly name: string;
  /** Largest |a - b|; Infinity where one of them is not finite. */
  readonly largest: number;
  /** The same divided by the largest |b|; 0 where both are 0. */
  readonly relative: number;
}

/**
 * Differences of tensors that both files have, largest first.
 * @throws InputError naming tensors that one of them lacks or that differ in shape
 */
export function compareTensors(
  a: Checkpoint,
  b: Checkpoint,
  selection: Selection,
  onTensor: () => void = () => {},
): TensorDifference[] {
  const chosen = selectTensors(a, selection);
  const wanted = b.names.filter((name) => !selection.drop?.test(name));
  const problems = [
    ...wanted.filter((name) => !chosen.has(name)).map((name) => `${brief(name)} is missing`),
    ...[...chosen.keys()].filter((name) => !b.has(name)).map((name) => `${brief(name)} is there alone`),
    ...wanted
      .filter(
        (name) => chosen.has(name) && String(a.shape(chosen.get(name) as string)) !== String(b.shape(name)),
      )
      .map((name) => `${brief(name)} is [${a.shape(chosen.get(name) as string)}], not [${b.shape(name)}]`),
  ];
  if (problems.length > 0) {
    throw new InputError(
      `${a.label}: its tensors are not those of ${b.label}: ${problems.slice(0, 4).join('; ')}${problems.length > 4 ? `; and ${problems.length - 4} more` : ''}`,
    );
  }
  const differences = wanted.map((name) => {
    const difference = largestDifference(a.array(chosen.get(name) as string).data, b.array(name).data);
    onTensor();
    return { name, ...difference };
  });
  return differences.sort((p, q) => q.largest - p.largest);
}

function largestDifference(x: HostData, y: HostData): { largest: number; relative: number } {
  let largest = 0;
  let size = 0;
  for (let i = 0; i < x.length; i++) {
    const difference = Math.abs((x[i] as number) - (y[i] as number));
    if (!(difference <= largest))
      largest = Number.isFinite(difference) ? difference : Number.POSITIVE_INFINITY;
    size = Math.max(size, Math.abs(y[i] as number));
  }
  return { largest, relative: largest === 0 ? 0 : largest / size };
}

/** The float types that a conversion may ask for. */
export const floatTypes = { f32: 'F32', f16: 'F16', bf16: 'BF16' } as const;

export interface ConvertOptions extends Selection {
  /** For floating-point tensors; integers and booleans keep theirs. Without it all tensors keep their bytes. */
  readonly dtype?: keyof typeof floatTypes;
  /** Called after each tensor. */
  readonly onTensor?: () => void;
}

/**
 * Writes a checkpoint as safetensors, one tensor in memory at a time (and its copy in the other type, where one is
 * asked for), whole or not at all. Settings at the top level
 * of the checkpoint, such as a step, become metadata.
 * @returns how many tensors were written
 * @throws InputError for a selection that leaves nothing, or a number that float16 cannot hold
 */
export function convertCheckpoint(source: Checkpoint, path: string, options: ConvertOptions = {}): number {
  const { dtype, onTensor } = options;
  const chosen = selectTensors(source, options);
  const tensors = [...chosen].map(([name, stored]) => {
    const from = source.type(stored);
    const type = dtype && isFloat(from) ? floatTypes[dtype] : from;
    return {
      name,
      shape: source.shape(stored),
      type,
      bytes() {
        const bytes = type === from ? source.bytes(stored) : converted(source, stored, type);
        onTensor?.();
        return bytes;
      },
    };
  });
  const metadata = Object.fromEntries(
    Object.entries(source.metadata).filter(([name]) => !name.includes('.')),
  );
  writeSafetensorsStream(path, tensors, metadata);
  return tensors.length;
}

function isFloat(type: ElementType): boolean {
  return type === 'F64' || type === 'F32' || type === 'F16' || type === 'BF16';
}

function converted(source: Checkpoint, name: string, type: ElementType): Uint8Array {
  const { data } = source.array(name);
  const floats = toFloat32(data);
  const what = `${source.label}: tensor ${brief(name)}`;
  // Half of the step above float16's largest number rounds to infinity, as does 2^128 in float32.
  const most = type === 'F16' ? 65520 : Number.POSITIVE_INFINITY;
  for (let i = 0; i < data.length; i++) {
    const size = Math.abs(data[i] as number);
    if (Number.isFinite(size) && !(Math.abs(floats[i] as number) < most)) {
      throw new InputError(
        `${what} holds ${data[i]} at position ${i}, beyond ${type}; convert to bf16 or keep its type`,
      );
    }
  }
  return encodeElements(type, floats, what);
}
